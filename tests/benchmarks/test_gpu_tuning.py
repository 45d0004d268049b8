"""If these fail, launch parameters are tuned by times that they do not change, or a rehearsal tunes this machine."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import tuning
from benchmarks.gpu.records import FileNote, GpuSetting, read_records
from dmpo.kernels import launch
from dmpo.kernels.launch import parameters


def setting() -> GpuSetting:
    return GpuSetting(torch.device("cpu"), True, time.monotonic() + 600, seed=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_is_timed_for_a_kernel_launches_it(
    dtype: torch.dtype, interpreter: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    right = parameters._launch_config

    def record(op: str, longest: int, size: int, *others: Any) -> Any:
        asked.append((op, size))
        return right(op, longest, size, *others)

    monkeypatch.setattr(parameters, "_launch_config", record)
    monkeypatch.setattr(tuning, "VOCABULARY", 128 * 64)
    for op, job in tuning.jobs(setting(), dtype).items():
        asked.clear()
        before = job()
        size = torch.float32 if op == "tile_softmax" else dtype
        assert (op, size.itemsize) in asked, "its parameters would be tuned by times that they do not change"
        for first, again in zip(before, job(), strict=True):
            assert torch.equal(first, again)


def test_a_rehearsal_leaves_the_launch_parameters_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    note = FileNote(tmp_path / "tuning.jsonl", "tuning")
    tuning.run(setting(), note)
    assert note.failed == []
    assert not (tmp_path / "cache").exists()
    table = json.loads(read_records(tmp_path / "tuning.jsonl")[-1]["launch_json"])
    assert table["sm_90"].keys() == {"ce_forward", "ce_backward", "sample_tiles", "tile_softmax"}
    (tmp_path / "launch.json").write_text(json.dumps(table))
    monkeypatch.setenv("DMPO_LAUNCH_JSON", str(tmp_path / "launch.json"))
    launch.forget_files()
    best = table["sm_90"]["ce_forward"]["2"]
    assert launch.launch_config("ce_forward", 126464, torch.bfloat16, 90).block == best["block"], "is not read"
    launch.forget_files()
