"""If these fail, one completion without a finite log-probability costs a whole step, or poisons it."""

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
NOWHERE = 47  # a token of no text but the bad one
FINITE = [0, 2]
ON_PATH: dict[str, Any] = {"loss": "wdce_path", "decoder": "random_order", "early_stop": False, "temperature": 1.0}
LOSSES: dict[str, dict[str, Any]] = {
    "wdce": {},
    "theta": {"baseline": "theta"},
    "wddo": {"loss": "wddo", "wddo_beta": 0.05},
    "rspo": {"loss": "rspo"},
    "tb": {"loss": "tb"},
    "path": ON_PATH,
    "path, theta": {**ON_PATH, "baseline": "theta"},
    **OPTIONS,
}


def walked(batch: Batch, options: dict[str, Any], *, step: int = STEP) -> tuple[StepResult, list[Tensor]]:
    """By a model that gives NaN wherever it sees the token."""
    model: Any = tiny().double()
    model.get_input_embeddings().weight.data[NOWHERE] = math.nan
    result = accumulate_gradient(devices.accelerator(), model, model, batch, config(**options), step)
    return result, [p.grad for p in model.parameters() if p.grad is not None]


def batches(name: str) -> tuple[Batch, Batch]:
    """Groups of which the second has a bad completion; and the others alone."""
    whole = scored(one_step_config("diffu_grpo"))
    drawn_order = torch.rand(whole.completions.tokens.shape, generator=torch.Generator().manual_seed(0)).argsort(-1)
    whole = dataclasses.replace(whole, drawn_order=drawn_order)
    whole.completions.tokens[whole.completions.tokens == NOWHERE] = 5
    rows = [group * SIZE + row for group in FINITE for row in range(SIZE)]
    scores = {key: score[rows] for key, score in whole.scores.items()}
    shared: dict[str, Any] = {key: of_groups[FINITE] for key, of_groups in whole.shared().items()}
    of_rows: dict[str, Any] = {
        "completions": whole.completions[torch.tensor(rows)],
        "row_ids": whole.row_ids[rows],
        "drawn_order": drawn_order[rows],
    }
    others = dataclasses.replace(whole, **of_rows, **shared, scores=scores)
    whole.completions.tokens[6, 3] = NOWHERE
    if name in whole.scores:
        whole.scores[name][6, 0, 1, 3] = math.nan
    else:
        getattr(whole, name)[1, 2] = -math.inf
    return whole, others


@pytest.mark.parametrize("micro_batch_size", [0, 1])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_bad_completion_costs_its_group(loss: str, micro_batch_size: int) -> None:
    """Of three groups, two thirds of the gradient of the other two; its own text passes through the model nowhere."""
    options = {**LOSSES[loss], "micro_batch_size": micro_batch_size}
    whole, others = batches("log_prob_cur" if loss != "diffu_grpo" else REF)
    (result, got), (alone, wanted) = walked(whole, options), walked(others, options)
    assert result.report["left_out"] == 1
    assert alone.report["left_out"] == 0
    rel = devices.float64_tolerance(1e-10, 0)["rtol"]
    assert result.loss == pytest.approx(2 / 3 * alone.loss, rel=rel)
    assert result.report.keys() == alone.report.keys()
    for key in result.report.keys() - {"left_out"}:
        assert result.report[key] == pytest.approx(alone.report[key], rel=rel, nan_ok=True), f"{key}, of finite groups"
    for ours, theirs in zip(got, wanted, strict=True):
        # The model's norms are float32 inside, where a gradient times 2/3 is rounded.
        assert (ours - 2 / 3 * theirs).abs().max() < 16 * torch.finfo(torch.float32).eps * theirs.abs().max()


@pytest.mark.parametrize("name", ["log_prob_ref", "log_prob_cur", CUR, REF])
def test_where_no_group_is_finite_there_is_no_step(name: str) -> None:
    whole, _ = batches("log_prob_ref")
    (whole.scores[name] if name in whole.scores else getattr(whole, name))[:] = math.nan
    result, grads = walked(whole, OPTIONS["diffu_grpo"])
    assert result.report["left_out"] == GROUPS
    assert all(math.isnan(value) for value in (result.loss, result.report["ess"], result.report["kl"]))
    assert not grads
