"""If these fail, a run on a GPU loses results, overruns its time, or tells less than it saw.

No GPU here: parts that go well or badly run on the CPU, in processes as on a GPU.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import probe, processes, report
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.parts import PARTS, TOTAL_SECONDS, Part
from benchmarks.gpu.records import read_records
from tests.benchmarks.fake_parts import CPU, GPU, fake

PYTHON = Path(sys.executable)


@pytest.fixture(autouse=True)
def stays() -> Iterator[None]:
    """A test that ends all parts leaves no order to end the parts of the next test."""
    yield
    processes.LEAVING.clear()


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


# --------------------------------------------------------------------------------------------- time and processes


def test_all_limits_together_are_eight_minutes() -> None:
    assert sum(part.seconds for part in PARTS) <= TOTAL_SECONDS == 480
    assert len({part.name for part in PARTS}) == len(PARTS)
    assert [part.module for part in PARTS if find_spec(part.module) is None] == []


def test_the_page_on_gpus_has_the_limits_and_the_memory_of_every_part() -> None:
    page = (processes.ROOT / "docs" / "gpu.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    told = {row[0]: (row[2], row[3]) for row in rows}
    for part in PARTS:
        assert told[part.name] == (str(part.seconds), f"{part.memory_gb:g}")
        assert "?" in report.question(part), "the docstring of a part opens with its question"


def test_what_goes_wrong_in_a_part_leaves_the_others(offered: Any, tmp_path: Path) -> None:
    offered(CPU, fake("hangs", 1), fake("crashes"), fake("raises"), fake("good"))
    assert main(["--rehearse", "--seconds", "100", "--output", str(tmp_path), "crashes", "raises", "good"]) == 1
    parts = results(tmp_path)["parts"]
    assert parts["good"]["state"] == "complete"
    assert [record["name"] for record in parts["good"]["records"]] == ["a figure", "a check"]
    assert parts["good"]["records"][0]["offline"] == "1", "no part asks the network"
    assert "this line belongs in the log" in (tmp_path / "good.log").read_text()
    assert parts["crashes"]["state"] == "stopped"
    assert f"ended with {-signal.SIGABRT}" in parts["crashes"]["reason"]
    assert [record["name"] for record in parts["crashes"]["records"]] == ["before the crash"]
    assert parts["raises"]["reason"].endswith("CUDA error: an illegal memory access was encountered")
    assert parts["hangs"]["state"] == "not run"
    failed = [(each["part"], each.get("check")) for each in results(tmp_path)["failed"]]
    assert failed == [("raises", "a check that fails"), ("crashes", None), ("raises", None)]


def test_a_part_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    order = processes.Order(fake("hangs"), tmp_path / "hangs.jsonl", {**CPU, "rehearse": True}, None, 0, "now", 30.0)
    thread = threading.Thread(target=processes.run_part, args=[order])
    thread.start()
    while len(read_records(order.records) if order.records.exists() else []) < 2:
        time.sleep(0.05)
    child = read_records(order.records)[1]["child"]
    begun = time.monotonic()
    processes.end_all()  # as at the limit, and as the command does when it is told to leave
    thread.join()
    assert time.monotonic() - begun < 20
    while is_alive(child):  # until the system has collected it
        time.sleep(0.05)
    assert read_records(order.records)[-1]["fault"].startswith(f"ended with {-signal.SIGKILL}")


def test_a_part_that_is_being_started_ends_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes after the process has begun, and before `end_all` can know of it."""
    popen = subprocess.Popen

    def signalled(*arguments: Any, **options: Any) -> Any:
        process = popen(*arguments, **options)
        processes.end_all()
        return process

    monkeypatch.setattr(processes.subprocess, "Popen", signalled)
    order = processes.Order(fake("hangs"), tmp_path / "hangs.jsonl", {**CPU, "rehearse": True}, None, 0, "now", 30.0)
    processes.run_part(order)
    assert read_records(order.records)[-1]["fault"].startswith(f"ended with {-signal.SIGKILL}")


def is_alive(process: int) -> bool:
    file = Path(f"/proc/{process}/stat")
    return file.is_file() and file.read_text().rpartition(") ")[2][0] not in "ZX"


def test_the_limit_ends_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LEAST_SECONDS", 0.0)
    order = processes.Order(fake("hangs"), tmp_path / "hangs.jsonl", {**CPU, "rehearse": True}, None, 0, "now", 0.2)
    processes.run_part(order)
    assert read_records(order.records)[-1]["fault"] == "still running after 0 seconds, and ended"
    assert set() == processes.RUNNING


def test_a_part_has_what_is_left_of_the_whole_time(offered: Any, tmp_path: Path) -> None:
    offered(CPU, fake("good"), fake("raises"))
    assert main(["--rehearse", "--seconds", "1", "--output", str(tmp_path)]) == 0
    assert {part["reason"] for part in results(tmp_path)["parts"].values()} == {"no time is left (--seconds)"}
    assert main(["--rehearse", "--seconds", "90", "--seed", "3", "--output", str(tmp_path), "good"]) == 0
    check = results(tmp_path)["parts"]["good"]["records"][1]
    assert check["seed"] == 3
    assert 0 < check["remaining_s"] < 90


def test_a_command_that_is_stopped_ends_its_parts(tmp_path: Path) -> None:
    code = "import sys; from benchmarks.gpu.__main__ import main; sys.exit(main())"
    arguments = ["--rehearse", "ceilings", "parity", "--output", str(tmp_path)]
    started = subprocess.Popen(
        [PYTHON, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(processes.ROOT)},
    )
    assert started.stdout is not None
    while not list(tmp_path.glob("*.jsonl")):
        assert started.poll() is None, started.stdout.read()
        time.sleep(0.1)
    started.terminate()
    assert started.wait(timeout=60) == 128 + signal.SIGTERM
    assert not [part for part in ("ceilings", "parity") if results_are_complete(tmp_path / f"{part}.jsonl")]


def results_are_complete(path: Path) -> bool:
    records = read_records(path)
    return bool(records) and records[-1].get("seconds") is not None


# --------------------------------------------------------------------------------------------- resuming


def test_a_complete_part_is_not_run_again(
    offered: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offered(CPU, fake("good"))
    arguments = ["--rehearse", "--output", str(tmp_path)]
    assert main(arguments) == 0
    before = (tmp_path / "good.jsonl").read_text()
    assert main(arguments) == 0
    assert (tmp_path / "good.jsonl").read_text() == before
    assert "complete already" in capsys.readouterr().out
    assert main([*arguments, "--again"]) == 0
    assert (tmp_path / "good.jsonl").read_text() != before
    for changed in ({"device": "another"}, {"versions": {"torch": "3"}}, {"driver": "1"}):
        key = {**read_records(tmp_path / "good.jsonl")[0]["key"], **changed}
        assert not processes.is_complete(tmp_path / "good.jsonl", key)
    monkeypatch.setattr(processes, "in_own_process", lambda *_: "still running")
    monkeypatch.setattr(command, "code_digest", lambda: "other files")
    assert main(arguments) == 1
    assert results(tmp_path)["parts"]["good"]["reason"] == "still running"
    assert not results_are_complete(tmp_path / "good.jsonl"), "a part that was stopped is run again"


def test_the_digest_follows_the_files_that_results_depend_on(tmp_path: Path) -> None:
    names = ("dmpo/a.py", "kernels/b.py", "kernels/launch/c.py", "benchmarks/gpu/c.py", "dmpo/_C.so")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    seen = {processes.code_digest(tmp_path)}
    for name in names:
        (tmp_path / name).write_text("2")
        seen.add(processes.code_digest(tmp_path))
    assert len(seen) == 1 + len(names)
    (tmp_path / "README.md").write_text("3")
    assert processes.code_digest(tmp_path) in seen


def test_the_commit_is_that_of_git_or_of_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-C", str(processes.ROOT), "rev-parse", "HEAD"]
    if (processes.ROOT / ".git").exists():
        assert processes.commit() == subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    assert processes.commit(tmp_path) is None
    (tmp_path / "bundle" / "site").mkdir(parents=True)
    (tmp_path / "bundle" / "COMMIT").write_text("abc with changes\n")
    monkeypatch.syspath_prepend(str(tmp_path / "bundle" / "site"))
    assert processes.commit(tmp_path) == "abc with changes"
    (tmp_path / "COMMIT").write_text("def\n")
    assert processes.commit(tmp_path) == "def"


# --------------------------------------------------------------------------------------------- devices


def test_what_a_device_cannot_run_is_skipped_and_the_rest_runs(
    offered: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, newer = Part("large", "x", 60, 70), Part("newer", "x", 60, 1, (10, 0))
    offered({**GPU, "free_gb": 60.5}, large, newer, Part("runs", "x", 60, 60))
    ran = []
    monkeypatch.setattr(processes, "in_own_process", lambda order, _: ran.append(order.part.name))
    main(["--output", str(tmp_path)])
    assert ran == ["runs"]
    parts = results(tmp_path)["parts"]
    assert parts["large"]["reason"] == "60.5 GB of device memory are free; this part needs 70 GB"
    assert parts["newer"]["reason"] == "the GPU has compute capability 9.0; this part needs 10.0 or newer"
    assert {parts[name]["state"] for name in ("large", "newer")} == {"skipped"}
    assert "this part needs 70 GB" in (tmp_path / "results.md").read_text()


def test_an_old_gpu_runs_what_needs_no_bfloat16() -> None:
    old = {**GPU, "capability": [7, 5]}
    able = [part.name for part in PARTS if processes.reason_to_skip(part, old, 80.0) is None]
    assert able == ["decoders", "trainer"]
    ampere = {**GPU, "capability": [8, 0]}
    assert [part for part in PARTS if processes.reason_to_skip(part, ampere, 80.0)] == []


def test_a_driver_that_is_too_old_is_reported_in_the_words_of_torch(
    offered: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old\n(found version 11040).")

    monkeypatch.setattr(torch.cuda, "init", refuse)
    device = probe.probe("cuda")
    assert device["problem"] == "The NVIDIA driver on your system is too old (found version 11040)."
    offered(device, fake("good"))
    assert main(["--output", str(tmp_path)]) == 2
    assert results(tmp_path)["parts"]["good"]["reason"] == device["problem"]
    assert "too old" in (tmp_path / "results.md").read_text()
    assert "--rehearse" in capsys.readouterr().err


def test_a_probe_that_dies_or_hangs_is_a_problem_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "environment", lambda: {"PATH": os.environ["PATH"], "PYTHONPATH": "nowhere"})
    monkeypatch.setattr(processes, "ROOT", Path("/"))
    assert "No module named 'benchmarks'" in processes.probe_device("cpu")["problem"]
    monkeypatch.setattr(processes, "PROBE_SECONDS", {"cpu": 0.01})
    assert processes.probe_device("cpu")["problem"] == "looking for the device took more than 0.01 seconds"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["coffee"], "unknown part coffee"),
        (["--seconds", "0"], "--seconds must be greater than 0"),
        (["--seed", "-1"], "--seed must be in"),
        (["--device", "cpu"], "add --rehearse"),
        (["--report", "/nonexistent"], "holds no records"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err
