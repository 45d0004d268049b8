"""If these fail, a new objective with scores of its own needs more than its file and its entry."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dmpo import DMPOConfig
from dmpo.losses.weights import ImportanceWeights
from dmpo.objectives import OBJECTIVES
from dmpo.objectives.gradient import accumulate_gradient
from dmpo.objectives.step import Objective, Step, Terms, weighted_ce
from dmpo.objectives.target import fresh_views, group_weights
from dmpo.pretrain import character_tokenizer
from dmpo.rollouts.batch import Completions
from dmpo.rollouts.buffer import ReplayBuffer
from dmpo.rollouts.policy import ReferencePolicy
from dmpo.rollouts.scoring import RowScores, score_log_prob
from dmpo.run.skipping import write_evidence
from tests import devices
from tests.rollout_problems import a_round, config, model
from tests.small_runs import lines, settings, trainer

OPTIONS: dict[str, Any] = {"buffer_rounds": 2, "reference_refresh_steps": 2, "gradient_steps": 2, "save_steps": 1}
BRIEF: dict[str, Any] = {"eval_steps": 0, "eval_prompts": 1, "learning_rate": 1e-2}


def scorer(name: str) -> RowScores:
    """The ELBO of each row, under a name of the toy's own: what the batch has in log_prob_cur or log_prob_ref."""

    def score(rows_model: nn.Module, rows: Completions, row_ids: Tensor, config: DMPOConfig) -> dict[str, Tensor]:
        assert not torch.is_grad_enabled(), "a score with a graph would keep the activations of its round"
        return {name: score_log_prob(rows_model, rows, row_ids, config)}

    return score


def toy_terms(step: Step, weights: ImportanceWeights) -> Terms:
    """WDCE with a weight that depends on the scores, which must belong to the rows of the batch."""
    batch, views = step.batch, fresh_views(step)
    for name, expected in (("toy_cur", batch.log_prob_cur), ("toy_ref", batch.log_prob_ref)):
        assert torch.equal(batch.scores[name], expected.flatten()[step.own])
    gap = batch.scores["toy_cur"] - batch.scores["toy_ref"]  # [B]
    of_views = step.spread(weights.positive) * (1 + 0.1 * gap.tanh()).repeat(step.config.replicates)
    share, rows = step.spread(torch.ones_like(batch.rewards)), batch.completions.repeat(step.config.replicates)
    cross_entropy = weighted_ce(rows, views, of_views)

    def view_loss(of: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        loss, _ = cross_entropy(of, hidden, weight, bias)
        return loss, (share * gap.repeat(step.config.replicates))[of].sum().view(1)

    return Terms(rows, views, view_loss)


TOY = Objective(
    group_weights=group_weights,
    terms=toy_terms,
    reports=("toy_gap",),
    score_round=scorer("toy_cur"),
    score_reference=scorer("toy_ref"),
)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "wdce", TOY)  # under a name that configs know
    monkeypatch.setattr("dmpo.trainer.plot_run", lambda *arguments: None)


def test_a_new_objective_trains_and_resumes_with_scores_of_its_own(tmp_path: Path) -> None:
    """Stopped amid a round, with an older round in the buffer and a reference that was refreshed."""
    trainer(settings(tmp_path / "whole", max_steps=5, **OPTIONS, **BRIEF)).train()
    trainer(settings(tmp_path / "stopped", max_steps=3, **OPTIONS, **BRIEF)).train()
    saved = load_file(tmp_path / "stopped" / "checkpoints" / "step-3" / "rank-0.safetensors")
    for index in (0, 1):
        for own, of_batch in (("toy_cur", "log_prob_cur"), ("toy_ref", "log_prob_ref")):
            assert torch.equal(saved[f"{index}.{own}"], saved[f"{index}.{of_batch}"].flatten())
    trainer(settings(tmp_path / "stopped", max_steps=5, resume=True, **OPTIONS, **BRIEF)).train()
    steps = lines(tmp_path / "whole")
    assert lines(tmp_path / "stopped") == steps
    gaps = [line["toy_gap"] for line in steps]
    assert gaps[0] == 0, "the reference is the policy"
    assert all(math.isfinite(gap) for gap in gaps)
    assert any(gap != 0 for gap in gaps)


def test_a_score_that_is_not_finite_leaves_its_group_out_and_is_in_the_evidence(tmp_path: Path) -> None:
    policy, options = model(), config("topk")
    batch = a_round(policy, ReferencePolicy(policy), options)
    damaged = batch.scores["toy_ref"].clone()
    damaged[5] = math.nan  # of the second group
    # Where it reaches the loss it is 0, and so is the number of the batch that the toy compares it with.
    damaged_batch = dataclasses.replace(batch, scores={**batch.scores, "toy_ref": damaged})
    result = accumulate_gradient(devices.accelerator(), policy, policy, damaged_batch, options, 0)
    assert result.report["left_out"] == 1
    assert math.isfinite(result.loss)
    write_evidence(tmp_path, 0, damaged_batch, character_tokenizer(), options)
    kept = load_file(tmp_path / "rank-0.safetensors")
    assert torch.equal(kept["toy_cur"], batch.scores["toy_cur"])
    assert torch.equal(kept["toy_ref"].isnan(), damaged.isnan())


def test_one_tensor_may_have_two_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """safetensors refuses tensors that share memory: the first checkpoint ended the run."""

    def twice(rows_model: nn.Module, rows: Completions, row_ids: Tensor, config: DMPOConfig) -> dict[str, Tensor]:
        scores = row_ids.double()
        return {"first": scores, "second": scores}

    monkeypatch.setitem(OBJECTIVES, "wdce", dataclasses.replace(TOY, score_round=twice))
    policy, options = model(), config("topk")
    batch, buffer = a_round(policy, ReferencePolicy(policy), options), ReplayBuffer(1, seed=0)
    buffer.add(batch)
    save_file(buffer.state()[0], tmp_path / "buffer.safetensors")
    write_evidence(tmp_path, 0, batch, character_tokenizer(), options)
    for file, prefix in (("buffer", "0."), ("rank-0", "")):
        saved = load_file(tmp_path / f"{file}.safetensors")
        assert torch.equal(saved[f"{prefix}first"], batch.row_ids.double())
        assert torch.equal(saved[f"{prefix}second"], batch.row_ids.double())


def test_a_name_that_both_functions_return_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the score under the reference took the place of the score under the policy."""
    both = dataclasses.replace(TOY, score_round=scorer("gap"), score_reference=scorer("gap"))
    monkeypatch.setitem(OBJECTIVES, "wdce", both)
    policy = model()
    with pytest.raises(ValueError, match="score_round and score_reference of an objective both return gap; rename"):
        a_round(policy, ReferencePolicy(policy), config("topk"))


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"tokens": torch.zeros(16)}, "'tokens' of an objective has the name of a tensor of every batch"),
        ({"rewards": torch.zeros(16)}, "'rewards' of an objective has the name of a tensor of every batch"),
        ({"alive": torch.zeros(16)}, "'alive' of an objective has the name of a tensor of every batch"),
        ({"gap": torch.zeros(15)}, r"one row for each of 16 completions, got torch.float32 of shape \(15,\)"),
        ({"gap": torch.tensor(0.0)}, r"got torch.float32 of shape \(\)"),
        ({"gap": torch.zeros(16).long()}, "must be floating .* got torch.int64"),
    ],
)
def test_scores_that_do_not_fit_are_refused(scores: dict[str, Tensor], message: str) -> None:
    policy = model()
    batch = a_round(policy, ReferencePolicy(policy), config("topk"))
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(batch, scores=scores)
