"""If these fail, `python -m benchmarks` does not run, on a CPU or on a GPU, or its files do not say what they are of.

Shapes are tiny: times and ratios mean nothing here.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks.__main__ import main
from benchmarks.harness import clock, provenance, setting
from benchmarks.harness.data_sheets import device_named
from benchmarks.harness.provenance import RESULTS
from benchmarks.harness.setting import Load, Setting, header
from benchmarks.measured import kernels as bench_kernels
from tests.benchmarks.fake_cuda import FakeCuda

HEADER = {
    *("device", "kind", "processor", "cores", "threads", "load_average", "versions", "commit", "dirty", "date"),
    *("command", "quick"),
}


def results(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text())


def every_header_is_whole(paths: list[Path], device: str) -> None:
    for path in paths:
        found = json.loads(path.read_text())["header"]
        assert set(found) == HEADER, path
        assert found["device"] == device
        assert found["quick"] is True
        assert found["command"].startswith("python -m benchmarks --quick")
        assert (
            found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
        )  # a wheel may leave +cu130 out
        assert found["load_average"][0] <= found["load_average"][1]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a quick run of every part, on a CPU."""
    output = tmp_path_factory.mktemp("results")
    before = {path: path.stat().st_mtime_ns for path in RESULTS.rglob("*")}
    assert main(["--quick", "--device", "cpu", "--threads", "1", "--output", str(output)]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in RESULTS.rglob("*")}, "a trial changed the results"
    return output


def test_every_part_writes_its_files(ran: Path) -> None:
    stems = {command.FILES.get(name, name) for name in command.PARTS}
    folder = ran / "cpu-1-thread"
    found = {path.stem for path in (*folder.glob("*.json"), *ran.glob("*.json"))}
    assert found == stems
    assert {path.stem for path in (*folder.glob("*.md"), *ran.glob("*.md"))} == stems | {"table"}
    assert {path.stem for path in folder.glob("*.png")} == {"kernels", "decoders", "rl_step", "scaling"}
    every_header_is_whole([*folder.glob("*.json"), *ran.glob("*.json")], "CPU, 1 thread")


def test_what_is_compared_is_the_same_problem(ran: Path) -> None:
    folder = ran / "cpu-1-thread"
    losses = [row["loss"] for row in results(folder, "step")["variants"].values()]
    norms = [row["grad_norm"] for row in results(folder, "step")["variants"].values()]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-4)
    runs = results(folder, "decoders")["runs"]
    assert [run["same_tokens"] for run in runs if run["temperature"] == 0] == [1.0, 1.0, 1.0]
    assert all(run["ours"]["row_forwards"] == run["published"]["row_forwards"] for run in runs)
    sides = [results(folder, "rl_step")[side] for side in ("ours", "published")]
    assert sides[0]["tokens"] == sides[1]["tokens"] > 0
    assert {"temperature", "score_views", "replicates"} <= results(folder, "rl_step")["settings"].keys()
    assert all(side["loss"] != 0 for side in sides), "views of coefficient 0 cost ours nothing"
    assert all(set(side["phases"]) == {"rollout", "reward", "score", "update"} for side in sides)


def test_ratios_are_published_over_ours(ran: Path) -> None:
    folder = ran / "cpu-1-thread"
    step = results(folder, "step")
    published, ours = (step["variants"][side] for side in ("published", "ours"))
    assert step["times_faster"] == published["seconds_best"] / ours["seconds_best"]
    rl = results(folder, "rl_step")
    assert rl["times_faster"] == rl["published"]["seconds"] / rl["ours"]["seconds"]
    assert rl["ours"]["seconds"] == math.fsum(phase["seconds"] for phase in rl["ours"]["phases"].values())
    for point in results(folder, "scaling")["points"]:
        assert point["times_faster"] == point["published"]["seconds"] / point["ours"]["seconds"]
    for run in results(folder, "decoders")["runs"]:
        assert run["ratio"] == run["published"]["seconds_best"] / run["ours"]["seconds_best"]


def test_every_axis_is_scaled_alone(ran: Path) -> None:
    found = results(ran / "cpu-1-thread", "scaling")
    for point in found["points"]:
        changed = {axis for axis, value in point["shape"].items() if value != found["base"][axis]}
        assert changed <= {point["axis"]}
        assert point["published"]["bytes"] > point["ours"]["bytes"] > 0
    for job in ("loss", "training step"):
        by_rows: dict[tuple[int, ...], set[float]] = {}
        for point in (p for p in found["points"] if p["job"] == job):
            shape = point["shape"]
            rows = (shape["vocab"], shape["length"], shape["batch"] * shape["views"])
            by_rows.setdefault(rows, set()).add(point["ours"]["seconds"])
        assert all(len(seconds) == 1 for seconds in by_rows.values()), "batch × views rows are measured once"
    axes = {(point["job"], point["axis"]) for point in found["points"]}
    assert len(axes) == 4 + 4 + 3


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """`--device cuda` with the tensors on the CPU: the code that a GPU runs, with events and counters of its own."""
    fake = FakeCuda()
    for module in (clock, setting, bench_kernels, command):
        monkeypatch.setattr(module, "cuda", fake)
    monkeypatch.setattr(Setting, "place", torch.device("cpu"))
    monkeypatch.delattr(bench_kernels, "plot")  # drawn above

    def tick(function: Any) -> Any:
        def ticking(*given: Any, **named: Any) -> Any:
            fake.run(1.0)
            return function(*given, **named)

        return ticking

    for name in ("mm", "__matmul__", "copy_", "float", "backward", "zero_"):
        monkeypatch.setattr(torch.Tensor, name, tick(getattr(torch.Tensor, name)))
    return fake


def test_a_gpu_takes_the_same_path(gpu: FakeCuda, tmp_path: Path) -> None:
    arguments = ["--quick", "--device", "cuda", "--output", str(tmp_path), "--only", "kernels", "step", "rl"]
    assert main(arguments) == 0
    folder = tmp_path / "nvidia-h100-80gb-hbm3"
    every_header_is_whole(list(folder.glob("*.json")), gpu.name)
    kernels, sheet = results(folder, "kernels"), device_named(gpu.name)
    assert sheet is not None
    assert kernels["data_sheet"] == {"bandwidth": sheet.bandwidth, "arithmetic": sheet.tensor}
    timed = [t for t in kernels["timings"] if t["seconds"] and t["peer"].startswith("dmpo") and "loss" in t["job"]]
    assert len(timed) >= 6
    for t in timed:
        assert t["seconds"] * 1e3 == pytest.approx(round(t["seconds"] * 1e3)), "not in whole ticks: not by the events"
        floor = max(t["floor_bytes"] / sheet.bandwidth, t["floor_flops"] / sheet.tensor)
        assert t["share_of_data_sheet"] == pytest.approx(floor / t["seconds"])
    assert gpu.waits > len(timed)


def test_a_device_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        main(["--device", "cuda"])
    assert "no CUDA device is visible" in capsys.readouterr().err


def test_a_part_that_fails_is_reported_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Setting) -> dict[str, Any]:
        raise RuntimeError("out of luck")

    monkeypatch.setattr("benchmarks.measured.training_step.measure", fail)
    options = ["--quick", "--device", "cpu", "--threads", "1"]
    assert main([*options, "--only", "step", "--output", str(tmp_path / "new")]) == 1, "on a folder that is not there"
    assert main([*options, "--only", "step", "remask", "--output", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert "out of luck" in told.err
    assert "failed: step" in told.err
    assert "not measured: `python -m benchmarks --only step`" in told.out
    assert (tmp_path / "cpu-1-thread" / "remask.json").is_file()


def test_headers_name_the_commit_or_say_that_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(setting, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    outside = header(Setting(), "python -m benchmarks", Load())
    assert (outside["commit"], outside["dirty"]) == (None, None)

    def git(*arguments: str) -> None:
        options = ["-c", "user.name=x", "-c", "user.email=x@y", "-c", "commit.gpgsign=false"]
        assert provenance.git(tmp_path, *options, *arguments) is not None, arguments

    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "results" / "a.json").write_text("1")
    (tmp_path / "code.py").write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    clean = header(Setting(), "python -m benchmarks", Load())
    assert clean["commit"] == provenance.git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "benchmarks" / "results" / "a.json").write_text("2")
    assert header(Setting(), "", Load())["dirty"] is False, "results are what a run writes"
    (tmp_path / "code.py").write_text("2")
    assert header(Setting(), "", Load())["dirty"] is True
