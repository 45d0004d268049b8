"""If these fail, a run on a GPU loses a record, or its report says less or more than the records do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import processes
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.records import FileNote, read_records
from tests.benchmarks.fake_parts import CPU, GPU, fake


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
