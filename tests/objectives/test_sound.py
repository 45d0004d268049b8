"""If these fail, one completion without a finite log-probability costs a whole step, or poisons it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dmpo.batch import Batch
from dmpo.objective import StepResult, accumulate_gradient
from tests import devices
from tests.objectives.test_gradients import OPTIONS, STEP, scored, settings
from tests.test_objective import GROUPS, SIZE, config
from tests.tiny_models import tiny

pytestmark = pytest.mark.usefixtures("device")
NOWHERE = 47  # a token of no text but the bad one
SOUND = [0, 2]
LOSSES: dict[str, dict[str, Any]] = {
    "wdce": {},
    "theta": {"baseline": "theta"},
    "wddo": {"loss": "wddo", "wddo_beta": 0.05},
    **OPTIONS,
}


def walked(batch: Batch, options: dict[str, Any], *, step: int = STEP) -> tuple[StepResult, list[Tensor]]:
    """By a model that gives NaN wherever it sees the token."""
    model = tiny().double()
    model.get_input_embeddings().weight.data[NOWHERE] = math.nan
    result = accumulate_gradient(devices.accelerator(), model, model, batch, config(**options), step)
    return result, [p.grad for p in model.parameters() if p.grad is not None]


def batches(name: str) -> tuple[Batch, Batch]:
    """Groups of which the second has a bad completion; and the others alone."""
    whole = scored(settings("diffu_grpo"))
    whole.completions.tokens[whole.completions.tokens == NOWHERE] = 5
    rows = [group * SIZE + row for group in SOUND for row in range(SIZE)]
    of_tokens = {
        key: scores[rows] for key in ("one_step_cur", "one_step_ref") if (scores := getattr(whole, key)) is not None
    }
    shared = {key: getattr(whole, key)[SOUND] for key in ("rewards", "log_prob_ref", "log_prob_cur", "age")}
    completions, ids = whole.completions[torch.tensor(rows)], whole.row_ids[rows]
    part = dataclasses.replace(whole, completions=completions, row_ids=ids, **shared, **of_tokens)
    whole.completions.tokens[6, 3] = NOWHERE
    if name.startswith("one_step"):
        getattr(whole, name)[6, 0, 1, 3] = math.nan
    else:
        getattr(whole, name)[1, 2] = -math.inf
    return whole, part


@pytest.mark.parametrize("micro_batch_size", [0, 1])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_bad_completion_costs_its_group(loss: str, micro_batch_size: int) -> None:
    """Of three groups, two thirds of the gradient of the other two; its own text passes through the model nowhere."""
    options = {**LOSSES[loss], "micro_batch_size": micro_batch_size}
    whole, part = batches("log_prob_cur" if loss != "diffu_grpo" else "one_step_ref")
    (found, got), (alone, wanted) = walked(whole, options), walked(part, options)
    assert found.report["left_out"] == 1
    assert alone.report["left_out"] == 0
    rel = devices.float64_tolerance(1e-10, 0)["rtol"]
    assert found.loss == pytest.approx(2 / 3 * alone.loss, rel=rel)
    assert found.report.keys() == alone.report.keys()
    for key in found.report.keys() - {"left_out"}:
        assert found.report[key] == pytest.approx(alone.report[key], rel=rel, nan_ok=True), f"{key}, of sound groups"
    for ours, theirs in zip(got, wanted, strict=True):
        # The model's norms are float32 inside, where a gradient times 2/3 is rounded.
        assert (ours - 2 / 3 * theirs).abs().max() < 16 * torch.finfo(torch.float32).eps * theirs.abs().max()


@pytest.mark.parametrize("name", ["log_prob_ref", "log_prob_cur", "one_step_cur", "one_step_ref"])
def test_where_no_group_is_sound_there_is_no_step(name: str) -> None:
    whole, _ = batches("log_prob_ref")
    getattr(whole, name)[:] = math.nan
    result, grads = walked(whole, OPTIONS["diffu_grpo"])
    assert result.report["left_out"] == GROUPS
    assert all(math.isnan(value) for value in (result.loss, result.report["ess"], result.report["kl"]))
    assert not grads
