"""If these fail, a run that is killed is another run when it goes on, or two runs write into one folder."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dmpo.run import checkpoint
from dmpo.storage.json_lines import JsonLines
from dmpo.storage.lock import FolderLock
from tests.run.killed_run import small_trainer, start
from tests.small_runs import lines, names


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / f"step-{step}" / checkpoint.ADAPTER)


def test_killed_at_random_and_resumed_it_is_the_same_run(tmp_path: Path) -> None:
    """At random lines of what writes: at the start, amid a round, between log and checkpoint, in checkpoints."""
    whole, count = start(tmp_path / "whole", traced=True)
    whole.join()
    assert whole.exitcode == 0
    draw, kills = random.Random(0), 0
    status: int | None = -signal.SIGKILL
    while status:
        process, _ = start(tmp_path / "killed", draw.randrange(1, count.value // 2))
        process.join()
        status = process.exitcode
        assert status in (0, -signal.SIGKILL)
        kills += status != 0
    assert kills >= 5
    for name in ("metrics.jsonl", "completions.jsonl", "held_out.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert names(tmp_path / "killed" / "checkpoints")[-2:] == ["step-6", "step-8"]  # an older one may have been spared
    a, b = weights(tmp_path / "whole", 8), weights(tmp_path / "killed", 8)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_lines_cut_short_are_forgotten(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "metrics.jsonl")
    file.append({"step": 1, "loss": 0.1}, {"step": 2, "loss": float("nan")}, {"step": 3})
    before = file.path.read_bytes()
    with file.path.open("ab") as raw:
        raw.write(b'{"step": 4, "lo')
    assert [line["step"] for line in file.read()] == [1, 2, 3]
    assert file.read()[1]["loss"] is None
    assert file.cut(9) == 3
    assert file.path.read_bytes() == before
    assert file.cut(2) == 2
    assert before.startswith(file.path.read_bytes())


def test_resume_starts_a_run_that_has_nothing_yet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Never begun; killed before config.yaml; killed before the first checkpoint."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").touch()
    (folder / ".partial-config.yaml").write_text("half")
    small_trainer(folder, max_steps=1, save_steps=0).train()
    assert "starts at step 0" in caplog.text
    (folder / "checkpoints" / "step-1").rename(tmp_path / "elsewhere")
    small_trainer(folder, max_steps=2, save_steps=0).train()
    assert [line["step"] for line in lines(folder)] == [1, 2]
    evaluations = [(line["step"], line["split"]) for line in lines(folder, "held_out.jsonl")]
    assert evaluations == [(0, "test")] * 4 + [(2, "validation")] * 4 + [(2, "test")] * 4
    assert ".partial-config.yaml" not in names(folder)


def test_a_folder_that_is_no_run_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ValueError, match=r"no config\.yaml"):
        small_trainer(tmp_path)
    assert names(tmp_path) == ["thesis.txt"]


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    run = small_trainer(tmp_path, max_steps=1)
    holder = FolderLock(tmp_path)
    with pytest.raises(ValueError, match=f"is being written by process {os.getpid()} on"):
        run.train()
    holder.release()
    run.train()
    late = small_trainer(tmp_path, max_steps=2)
    small_trainer(tmp_path, max_steps=2).train()
    with pytest.raises(ValueError, match="another run has written into output_dir"):
        late.train()
    FolderLock(tmp_path).release()
