"""If these fail, groups whose rewards all agree are not left out of a step, or change it, or cost passes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dmpo.objectives.diffu_grpo import CUR, REF
from dmpo.objectives.gradient import StepResult, accumulate_gradient
from dmpo.rollouts.batch import Batch
from tests import devices
from tests.gradient_problems import GROUPS, OPTIONS, SIZE, STEP, config, one_step_config, scored
from tests.tiny_models import tiny

pytestmark = pytest.mark.usefixtures("device")
DIFFERENT = [0, 2]  # the other group's rewards agree
LOSSES: dict[str, dict[str, Any]] = {
    "wdce": {},
    "theta": {"baseline": "theta"},
    "reward": {"weighting": "reward", "baseline": "none"},
    "wddo": {"loss": "wddo", "wddo_beta": 0.05},
    "rspo": {"loss": "rspo"},
    "tb": {"loss": "tb"},
    **OPTIONS,
}


def walked(batch: Batch, *, skip: bool = True, **options: Any) -> tuple[StepResult, list[Tensor], int]:
    """The step, its gradient, and the views that passed through the model with a gradient."""
    model, views = tiny().double(), [0]
    model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: views.__setitem__(0, views[0] + len(inputs[0]) * torch.is_grad_enabled())
    )
    settings = config(**{"skip_equal_rewards": skip, "micro_batch_size": 3, **options})
    result = accumulate_gradient(devices.accelerator(), model, model, batch, settings, STEP)
    return result, [p.grad for p in model.parameters() if p.grad is not None], views[0]


def batches() -> tuple[Batch, Batch]:
    """Groups of which the second has equal rewards; and the others alone."""
    whole = scored(one_step_config("diffu_grpo"))
    whole.rewards[1] = 0.25
    rows = [group * SIZE + row for group in DIFFERENT for row in range(SIZE)]
    scores = {key: of_rows[rows] for key, of_rows in whole.scores.items()}
    shared: dict[str, Any] = {key: of_groups[DIFFERENT] for key, of_groups in whole.shared().items()}
    completions, ids = whole.completions[torch.tensor(rows)], whole.row_ids[rows]
    return whole, dataclasses.replace(whole, completions=completions, row_ids=ids, **shared, scores=scores)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_step_is_that_of_the_other_groups(loss: str) -> None:
    """Of three groups, two thirds of the gradient of the other two, in as many passes as these two need."""
    whole, others = batches()
    options = LOSSES[loss]
    (result, got, views), (alone, wanted, views_alone) = walked(whole, **options), walked(others, **options)
    assert views == views_alone
    counts = [(step.report["left_out"], step.report["left_out_equal"]) for step in (result, alone)]
    assert counts == [(0, 1), (0, 0)]
    assert not result.idle
    rel = devices.float64_tolerance(1e-10, 0)["rtol"]
    assert result.loss == pytest.approx(2 / 3 * alone.loss, rel=rel)
    assert result.report.keys() == alone.report.keys()
    for key in result.report.keys() - {"left_out_equal"}:
        assert result.report[key] == pytest.approx(alone.report[key], rel=rel, nan_ok=True), key
    for ours, theirs in zip(got, wanted, strict=True):
        # The model's norms are float32 inside, where a gradient times 2/3 is rounded.
        assert (ours - 2 / 3 * theirs).abs().max() < 16 * torch.finfo(torch.float32).eps * theirs.abs().max()


@pytest.mark.parametrize("loss", ["wdce", "wd1", "diffu_grpo"])
def test_what_a_group_of_equal_rewards_teaches(loss: str) -> None:
    """Nothing where rewards count by advantages, without a KL. With wdce it pulls towards the reference."""
    whole, _ = batches()
    options = {**LOSSES[loss], **({"kl_beta": 0.0} if loss == "diffu_grpo" else {})}
    (result, got, views), (kept, wanted, all_views) = walked(whole, **options), walked(whole, skip=False, **options)
    assert views < all_views
    assert "left_out_equal" not in kept.report
    rounding = 16 * torch.finfo(torch.float32).eps
    same = [(a - b).abs().max() <= rounding * b.abs().max() for a, b in zip(got, wanted, strict=True)]
    assert all(same) == (loss != "wdce")
    assert (result.loss == pytest.approx(kept.loss, rel=1e-6)) == (loss != "wdce")


@pytest.mark.parametrize("loss", LOSSES)
def test_where_all_rewards_agree_there_is_no_step(loss: str) -> None:
    whole, _ = batches()
    whole.rewards[:] = torch.arange(GROUPS).double().unsqueeze(1)
    result, grads, views = walked(whole, **LOSSES[loss])
    assert result.idle
    assert (result.loss, result.report["left_out_equal"], views) == (0.0, GROUPS, 0)
    assert math.isnan(result.report["ess"])
    assert not grads


def test_a_group_that_is_not_finite_is_told_from_one_whose_rewards_agree() -> None:
    """All others agree: there is no step, and it is a fault."""
    whole, _ = batches()
    whole.rewards[:] = 0.5
    whole.rewards[2, 0] = 1.0
    whole.log_prob_cur[1:, 0] = math.nan
    result, grads, _ = walked(whole)
    assert (result.idle, math.isnan(result.loss), bool(grads)) == (False, True, False)
    assert (result.report["left_out"], result.report["left_out_equal"]) == (2, 1)
    for name in (CUR, REF):
        whole.scores.pop(name)
    whole.rewards[0, 0] = 1.0
    result, grads, views = walked(whole)
    assert math.isfinite(result.loss)
    assert (result.report["left_out"], result.report["left_out_equal"], views) == (2, 0, 4 * SIZE)
    assert all(grad.isfinite().all() for grad in grads)
