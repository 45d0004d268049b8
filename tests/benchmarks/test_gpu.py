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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import probe, processes, report, timing
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.parts import PARTS, TOTAL_SECONDS, Part
from benchmarks.gpu.records import FileNote, read_records
from tests.benchmarks.fake_cuda import FakeCuda

PYTHON = Path(sys.executable)


def fake(name: str, seconds: int = 60, **needs: Any) -> Part:
    return Part(name, f"tests.benchmarks.gpu_parts.{name}", seconds, needs.get("memory_gb", 1), (8, 0))


CPU = {"kind": "cpu", "device": "CPU, 1 thread", "slug": "cpu-1-thread", "driver": None, "problem": None}
GPU = {**CPU, "kind": "cuda", "device": "NVIDIA A", "slug": "nvidia-a", "driver": "580.1", "capability": [9, 0]}


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put parts and a device in the place of the real ones: offered(device, part, ...)."""

    def put(device: dict[str, Any], *parts: Part) -> None:
        for module in (command, report):
            monkeypatch.setattr(module, "PARTS", parts)
        monkeypatch.setattr(command, "part_named", {part.name: part for part in parts}.__getitem__)
        monkeypatch.setattr(command, "probe_device", lambda _: {"versions": {"torch": "2"}, "total_gb": 80.0, **device})
        monkeypatch.setattr(processes, "MARGIN", 0.5)

    return put


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


# --------------------------------------------------------------------------------------------- records and report


def test_a_record_is_on_disk_at_once_and_is_json(tmp_path: Path) -> None:
    note = FileNote(tmp_path / "x.jsonl", "x")
    right: Any = torch.tensor(True)
    note("first", ok=right, error=torch.tensor(0.5), dtype=torch.bfloat16, rows=(1, 2), much=float("inf"))
    (record,) = read_records(tmp_path / "x.jsonl")
    record.pop("at")
    assert record == {
        "name": "first",
        "ok": True,
        "error": 0.5,
        "dtype": "torch.bfloat16",
        "rows": [1, 2],
        "much": "inf",
    }
    with pytest.raises(ValueError, match="noted 'first' already"):
        note("first")
    with pytest.raises(ValueError, match="keys at are taken"):
        note("second", at=1)
    with pytest.raises(ValueError, match="name"):
        note("end")


def test_a_line_that_was_cut_off_is_left_out_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"name": "a"}\n{"name": "b')
    assert [record["name"] for record in read_records(file)] == ["a"]
    processes.write_end(file, ok=False, fault="gone")
    assert [record["name"] for record in read_records(file)] == ["a", "end"]
    file.write_text('{"name": "a"\n{"name": "b"}\n')
    with pytest.raises(ValueError, match="line 1 is no JSON"):
        read_records(file)
    assert not processes.is_complete(file, {})


def test_the_report_opens_with_the_device_and_what_failed(
    offered: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered(GPU, fake("good"), fake("raises"))
    key = {"code": "c0de", "commit": "abc", "rehearse": False, "versions": {"torch": "2.11.0"}, "total_gb": 85.0, **GPU}
    start = {"name": "start", "date": "2026-11-27T00:00:00+00:00", "seed": 5, "key": key}
    records: dict[str, list[dict[str, Any]]] = {
        "good": [
            start,
            {"name": "one | two", "ok": None, "at": 1, "device_ms": 1.23456, "tokens_per_s": 12345.6, "share": None},
            {"name": "three", "ok": None, "at": 2, "device_ms": 2.0, "tokens_per_s": 3.0, "share": None},
            {"name": "end", "ok": True, "seconds": 3.0},
        ],
        "raises": [
            {**start, "key": {**key, "code": "older"}, "date": "2026-11-26T00:00:00+00:00"},
            {"name": "wrong", "ok": False, "at": 1, "error": 2.0},
            {"name": "end", "ok": False, "fault": "ended with 1: boom", "seconds": None},
        ],
    }
    for name, of_part in records.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in of_part))
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr(command, "RESULTS", tmp_path / "benchmarks" / "results")
    assert main(["--report", str(tmp_path)]) == 1
    page = (tmp_path / "benchmarks" / "results" / "nvidia-a" / "gpu.md").read_text()
    assert page == (tmp_path / "results.md").read_text()
    lines = page.splitlines()
    assert lines[0] == "# dmpo on NVIDIA A"
    assert "driver 580.1" in page
    assert "Commit abc" in page
    assert "2026-11-27" in page
    assert page.index("**raises**: wrong: error 2") < page.index("## Parts")
    assert "ended with 1: boom" in page
    assert "of other files or another device" in next(line for line in lines if line.startswith("| raises"))
    assert "of other files" not in next(line for line in lines if line.startswith("| good"))
    table = page.index("| | device, ms | tokens/s |")
    assert page.index("| one \\| two | 1.235 | 12,346 |") > table
    assert "share" not in page, "a column without any value is left out"


def test_a_rehearsal_writes_no_results_of_a_device(offered: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr(command, "RESULTS", tmp_path / "benchmarks" / "results")
    offered(CPU, fake("good"))
    assert main(["--rehearse"]) == 0
    assert "A rehearsal" in (tmp_path / "build" / "gpu-rehearsal" / "results.md").read_text()
    assert main(["--report", str(tmp_path / "build" / "gpu-rehearsal")]) == 0
    assert not (tmp_path / "benchmarks").exists()


# --------------------------------------------------------------------------------------------- timing


def test_device_time_is_that_of_the_events_and_host_time_that_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    monkeypatch.setattr(timing.torch, "cuda", cuda)
    lengths = iter([900.0, 900.0, 3.0, 5.0, 40.0])
    measured = timing.measure(torch.device("cuda"), lambda: cuda.run(next(lengths)), repeats=3, warm=2)
    assert measured.device_seconds == pytest.approx(5e-3), "the median, without the calls that warm up"
    assert 0 < measured.host_seconds < 5e-3


def test_on_a_cpu_both_times_are_the_wall_clock() -> None:
    measured = timing.measure(torch.device("cpu"), lambda: time.sleep(0.01), repeats=3, warm=0)
    assert measured.device_seconds == measured.host_seconds >= 0.01
