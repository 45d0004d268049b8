"""If these fail, supervised fine-tuning on several ranks is another run than on one."""

from __future__ import annotations

from pathlib import Path

import pytest

import dmpo.sft
from tests.ranks.launch import on_ranks
from tests.sft.problems import settings, trainer
from tests.small_runs import lines


def train(folder: Path, max_steps: int, resume: bool = False) -> None:
    dmpo.sft.plot_sft_run = lambda *arguments: None  # in a process of its own
    trainer(settings(folder, batch_size=5, max_steps=max_steps, eval_prompts=5, resume=resume)).train()


def test_two_ranks_are_one_and_one_goes_on(tmp_path: Path) -> None:
    ranks = on_ranks(2, train, tmp_path / "two", 3, folder=tmp_path)
    assert all(rank.error is None for rank in ranks), ranks
    ranks = on_ranks(1, train, tmp_path / "two", 4, True, folder=tmp_path)
    ranks += on_ranks(1, train, tmp_path / "one", 4, folder=tmp_path)
    assert all(rank.error is None for rank in ranks), ranks
    one, two = lines(tmp_path / "one"), lines(tmp_path / "two")
    assert len(one) == len(two) == 4
    for line, other in zip(one, two, strict=True):
        same = line.keys() & other.keys()
        assert "loss" in same
        assert all(line[name] == pytest.approx(other[name], rel=1e-4) for name in same)
