"""If these fail, a run on several ranks is another run than on one, hangs where a rank fails, or is printed twice."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ranks.launch import Rank, Sharding, on_ranks, results
from tests.ranks.training_run import train
from tests.small_runs import lines


def check(one: list[dict[str, Any]], many: list[dict[str, Any]]) -> None:
    assert len(one) == len(many) == 4
    assert "path_log_prob_ref" in one[0]
    for a, b in zip(one, many, strict=True):
        assert a.keys() == b.keys()
        # Measured on a few completions of each rank, other ones; each rank's last batch of rollouts is a short one.
        for key in a.keys() - {"entropy", "forwards"}:
            # float32 sums in another order, carried through four AdamW steps
            assert b[key] == pytest.approx(a[key], rel=1e-3, abs=1e-5), key


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Runs of one rank, with LoRA of rank 2 and without."""
    folder = tmp_path_factory.mktemp("alone")
    for rank in (0, 2):
        results(on_ranks(1, train, folder / f"run-{rank}", {"lora_r": rank}, folder=folder))
    return {rank: folder / f"run-{rank}" for rank in (0, 2)}


def test_three_ranks_are_one_and_one_of_them_prints(alone: dict[int, Path], tmp_path: Path) -> None:
    ranks = on_ranks(3, train, tmp_path / "run", {"lora_r": 0}, folder=tmp_path)
    results(ranks)
    check(lines(alone[0]), lines(tmp_path / "run"))
    one, three = (lines(folder, "held_out.jsonl") for folder in (alone[0], tmp_path / "run"))
    places = [(line["step"], line["split"], line["index"]) for line in three]
    assert places == [(line["step"], line["split"], line["index"]) for line in one]
    assert [place[2] for place in places] == [0, 1, 2, 3] * (len(places) // 4), "which lie on three ranks"
    for a, b in zip(one[:4], three[:4], strict=True):  # before any step
        assert b.pop("log_probs") == pytest.approx(a.pop("log_probs"), abs=2e-4)
        assert a == b
    assert "Held-out accuracy" in ranks[0].printed
    assert [rank.printed for rank in ranks[1:]] == ["", ""]


@pytest.mark.parametrize("lora_r", [0, 2])
def test_sharded_run_is_one_and_goes_on_with_whole_parameters(
    lora_r: int, alone: dict[int, Path], tmp_path: Path
) -> None:
    """FSDP2 on two ranks to step 3, amid a round; then one rank that shares nothing. Rollouts of the two ranks decode
    with merged adapters, which changes roundings alone."""
    sharded = {"lora_r": lora_r, "max_steps": 3, "merge_adapters": lora_r > 0}
    results(on_ranks(2, train, tmp_path / "run", sharded, folder=tmp_path, sharding="fsdp"))
    results(on_ranks(1, train, tmp_path / "run", {"lora_r": lora_r, "resume": True}, folder=tmp_path))
    check(lines(alone[lora_r]), lines(tmp_path / "run"))


class Fails:
    """A reward that returns nonsense on one rank, after a first round that went well. (One that raises scores 0.)"""

    def __init__(self) -> None:
        self.completions = -2  # not where the run begins by trying it

    def __call__(self, completions: list[str], **columns: list[Any]) -> list[float]:
        self.completions += len(completions)
        if self.completions > 8 and torch.distributed.get_rank() == 1:  # of 15 a round
            return [math.nan] * len(completions)
        return [float(len(set(text))) for text in completions]


def train_and_fail(folder: Path) -> None:
    train(folder, {}, Fails())


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_all_ranks_stop_where_the_reward_of_one_fails(sharding: Sharding, tmp_path: Path) -> None:
    ranks: list[Rank] = on_ranks(2, train_and_fail, tmp_path / "run", folder=tmp_path, sharding=sharding)
    assert all("must return finite numbers, got nan" in str(rank.error) for rank in ranks), ranks
    assert "rank 1 failed" in str(ranks[0].error)
    assert len(lines(tmp_path / "run")) == 2
