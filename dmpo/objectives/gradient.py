"""The gradient of one step (docs/maths.md, sections 2 to 5): the terms of its objective, then one walk over the views.

What depends on whole groups (weights, coefficients) is computed first, over all ranks; then the views pass through the
model once, in micro-batches of any size. What differs between objectives is in `dmpo.objectives`.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..config.keys import DMPOConfig
from ..distributed.ranks import rank_rows, summed
from ..losses.weights import ImportanceWeights
from ..models.masked_lm import special_ids
from ..rollouts.batch import Batch
from ..rollouts.likelihood import apply_head_to_views
from . import OBJECTIVES
from .finite import finite_groups, replace_non_finite
from .step import Objective, Step


@dataclass(frozen=True)
class StepResult:
    """loss: over all ranks. report: what the step says of itself, see `metrics`."""

    loss: float
    report: dict[str, float]


def objective_of(config: DMPOConfig) -> Objective:
    """The objective that the config key `loss` names."""
    return OBJECTIVES[config.loss]


def group_weights(batch: Batch, config: DMPOConfig) -> tuple[ImportanceWeights, Tensor]:
    """Weights of every group [groups, G] and its proximal coefficient [groups], as the config's loss has them."""
    return objective_of(config).group_weights(batch, config)


def accumulate_gradient(
    accelerator: Accelerator, model: nn.Module, policy: nn.Module, batch: Batch, config: DMPOConfig, step: int
) -> StepResult:
    """Add the gradient of the loss on fresh views to the parameters; the mean over ranks is the loss's own gradient.

    It does not depend on `micro_batch_size` nor on the ranks, up to rounding and dropout; all ranks make the same
    number of passes. `model` is `policy` as accelerate wrapped it. A group with a log-probability that is not finite is
    left out: it counts 0 in the mean over groups. Where no group is left, or the terms are not finite, the loss is NaN,
    on every rank, and there is no gradient.
    """
    objective, (mask_id, _) = objective_of(config), special_ids(policy)
    world, total, finite = accelerator.num_processes, batch.rewards.numel(), finite_groups(accelerator, batch)
    batch = replace_non_finite(batch, finite, rank_rows(total, accelerator.process_index, world), mask_id)
    weights, coeff = objective.group_weights(batch, config)
    this_step = Step(
        accelerator=accelerator, model=model, batch=batch, config=config, index=step, finite=finite, mask_id=mask_id
    )
    terms = objective.terms(this_step, weights) if finite.any() else None
    if terms is None:
        return _not_finite(objective, batch, finite)
    model.train()
    views = len(terms.masks)
    most = config.replicates * -(-total // world)  # views of the rank that has most
    size = config.micro_batch_size or most
    sums = torch.zeros(1 + len(objective.reports), dtype=torch.float64, device=terms.masks.device)  # loss, reports
    for start in range(0, most, size):
        chunk = slice(start, start + size) if start < views else slice(0, 1)
        live = 1.0 if start < views else 0.0  # a rank with fewer views makes the pass, and it counts nothing
        head = partial(terms.view_loss, chunk)
        accelerator.sync_gradients = start + size >= most  # for DeepSpeed, whose backward then also steps
        with nullcontext() if accelerator.sync_gradients else accelerator.no_sync(model):
            loss, reports = apply_head_to_views(model, terms.rows[chunk], terms.masks[chunk], mask_id, head)
            accelerator.backward(loss * (live * world))  # ranks are averaged
        sums += torch.cat([loss.detach().view(1), reports]) * live
    loss_of_views, *reports_of_views = summed(accelerator, *sums)
    share = float(finite.double().mean())  # reports are means over finite groups, as ESS and c are
    report = _report(objective, weights, coeff, [value / share for value in reports_of_views], finite)
    return StepResult(loss_of_views if terms.loss is None else terms.loss, report)


def scores_are_finite(batch: Batch) -> bool:
    """Whether all log-probabilities of a batch are finite, so that it has weights; the same on every rank."""
    return bool(batch.log_prob_ref.isfinite().all() and batch.log_prob_cur.isfinite().all())


def _not_finite(objective: Objective, batch: Batch, finite: Tensor) -> StepResult:
    nothing = torch.full_like(batch.rewards, math.nan)
    weights, coeff = ImportanceWeights(nothing, nothing, nothing[:, 0]), nothing[:, 0]
    return StepResult(math.nan, _report(objective, weights, coeff, [math.nan] * len(objective.reports), finite))


def _report(
    objective: Objective, weights: ImportanceWeights, coeff: Tensor, reports: list[float], finite: Tensor
) -> dict[str, float]:
    means = {name: float(x[finite].double().mean()) for name, x in (("ess", weights.ess), ("coeff", coeff))}
    return means | dict(zip(objective.reports, reports, strict=True)) | {"left_out": int((~finite).sum())}
