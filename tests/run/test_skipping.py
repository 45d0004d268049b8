"""If these fail, one bad step ends a run or spoils it, or a run of bad steps goes unreported."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import dmpo.trainer
from dmpo.storage.checkpoints import list_checkpoints
from tests.run.killed_run import small_trainer
from tests.small_runs import lines, names


def test_a_step_that_is_not_finite_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = dmpo.trainer.accumulate_gradient, []

    def poisoned(accelerator: Any, model: Any, policy: Any, batch: Any, config: Any, step: int) -> Any:
        result = real(accelerator, model, policy, batch, config, step)
        seen.append([p.detach().clone() for p in run.trainable])
        if step in (2, 4, 5):
            gradient = run.trainable[0].grad
            assert gradient is not None
            gradient.fill_(float("inf"))
        return result

    monkeypatch.setattr(dmpo.trainer, "accumulate_gradient", poisoned)
    run = small_trainer(tmp_path, max_steps=7, max_skipped_steps=3, warmup_steps=7, save_steps=1)
    summary = run.train()
    assert [line["skipped"] for line in lines(tmp_path)] == [0, 0, 1, 0, 1, 1, 0]
    assert summary["skipped_steps"] == 3
    moved = [any(not torch.equal(a, b) for a, b in zip(*pair, strict=True)) for pair in itertools.pairwise(seen)]
    assert moved == [True, True, False, True, False, False]
    rates = [line["learning_rate"] for line in lines(tmp_path)]
    assert rates == sorted(set(rates)), "the schedule goes on"
    assert lines(tmp_path)[2]["grad_norm"] is None


def test_too_many_stop_the_run_with_its_state_and_the_batch(tmp_path: Path) -> None:
    """A weight turns NaN after two good rounds, as an overflow would make it."""
    calls = []

    def reward(completions: list[str], **columns: Any) -> list[float]:
        calls.append(1)
        if len(calls) == 4:
            run.trainable[-1].data.fill_(float("nan"))  # of the last layer's MLP
        return [text.count("1") / 4 for text in completions]

    run = small_trainer(tmp_path, reward, save_steps=1, save_total_limit=1, max_skipped_steps=2, buffer_rounds=1)
    with pytest.raises(FloatingPointError, match=r"the last 2 steps .* saved at step 6, and the batch of step 6 is in"):
        run.train()
    assert [line["skipped"] for line in lines(tmp_path)] == [0, 0, 0, 0, 1, 1]
    kept = [path.name for path in list_checkpoints(tmp_path / "checkpoints")]
    assert kept == ["step-4", "step-5", "step-6"], "the last good one stays"
    folder = tmp_path / "not-finite-step-6"
    rows = json.loads((folder / "rank-0.json").read_text())
    assert len(rows) == 16
    assert rows[0].keys() >= {"prompt", "completion", "row_id", "rewards", "log_prob_ref", "log_prob_cur"}
    assert rows[0]["prompt"] in "1234"
    assert any(row["log_prob_cur"] is None for row in rows)
    assert load_file(folder / "rank-0.safetensors")["tokens"].shape == (16, 4)
    with pytest.raises(FloatingPointError):  # the count goes on where it was
        small_trainer(tmp_path, reward, buffer_rounds=1, save_steps=1, save_total_limit=1, max_skipped_steps=3).train()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]


def test_a_reward_gone_wrong_loses_nothing(tmp_path: Path) -> None:
    calls = []

    def reward(completions: list[str], **columns: Any) -> list[float]:
        calls.append(1)
        return [0.5] * (len(completions) - (len(calls) == 4))

    with pytest.raises(ValueError, match="reward"):
        small_trainer(tmp_path, reward, save_steps=0).train()
    assert names(tmp_path / "checkpoints") == ["step-4"]
