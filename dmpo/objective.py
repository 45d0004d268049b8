"""The gradient of one step (docs/maths.md, sections 2 to 5): the terms of its objective, then one walk over the views.

What depends on whole groups (weights, coefficients) is found first, over all ranks; then the views pass through the
model once, in micro-batches of any size. What differs between objectives is in `dmpo.objectives`.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .batch import Batch
from .config import DMPOConfig
from .likelihood import apply_head_to_views
from .masked_lm import special_ids
from .objectives import OBJECTIVES
from .objectives.sound import sound_groups, with_stand_ins
from .objectives.terms import Step
from .parallel import rank_rows, summed
from .weights import ImportanceWeights


@dataclass(frozen=True)
class StepResult:
    """loss: over all ranks; weights: w, ESS of each group; coeff: c of each group, [groups]; NaN where there is none.

    report: what the step says of itself, see `metrics`.
    """

    loss: float
    weights: ImportanceWeights
    coeff: Tensor
    report: dict[str, float]


def group_weights(batch: Batch, config: DMPOConfig) -> tuple[ImportanceWeights, Tensor]:
    """Weights of every group [groups, G] and its proximal coefficient [groups], as the config's loss has them."""
    return OBJECTIVES[config.loss].group_weights(batch, config)


def accumulate_gradient(
    accelerator: Accelerator, model: nn.Module, policy: nn.Module, batch: Batch, config: DMPOConfig, step: int
) -> StepResult:
    """Add the gradient of the loss on fresh views to the parameters; the mean over ranks is the loss's own gradient.

    It does not depend on `micro_batch_size` nor on the ranks, but for rounding and dropout; all ranks make the same
    number of passes. `model` is `policy` as accelerate wrapped it. A group with a log-probability that is not finite is
    left out: it counts 0 in the mean over groups. Where that leaves none, or the terms are not finite, the loss is NaN,
    on every rank, and there is no gradient.
    """
    objective, (mask_id, _) = OBJECTIVES[config.loss], special_ids(policy)
    world, total, sound = accelerator.num_processes, batch.rewards.numel(), sound_groups(accelerator, batch)
    batch = with_stand_ins(batch, sound, rank_rows(total, accelerator.process_index, world), mask_id)
    weights, coeff = objective.group_weights(batch, config)
    terms = objective.terms(Step(accelerator, model, batch, config, step, sound), weights) if sound.any() else None
    if terms is None:
        return _not_finite(batch, config, sound)
    model.train()
    views = len(terms.masks)
    most = config.replicates * -(-total // world)  # views of the rank that has most
    size = config.micro_batch_size or most
    walked = torch.zeros(1 + len(objective.REPORTS), dtype=torch.float64, device=terms.masks.device)
    for start in range(0, most, size):
        part = slice(start, start + size) if start < views else slice(0, 1)
        live = 1.0 if start < views else 0.0  # a rank with fewer views makes the pass, and it counts nothing
        accelerator.sync_gradients = start + size >= most  # for DeepSpeed, whose backward then also steps
        with nullcontext() if accelerator.sync_gradients else accelerator.no_sync(model):
            loss, sums = apply_head_to_views(model, terms.rows[part], terms.masks[part], mask_id, terms.head(part))
            accelerator.backward(loss * (live * world))  # ranks are averaged
        walked += torch.cat([loss.detach().view(1), sums]) * live
    found, *reports = summed(accelerator, *walked)
    found = found if terms.loss is None else terms.loss
    reports = [value / float(sound.double().mean()) for value in reports]  # means over sound groups, as of ESS and c
    return StepResult(found, weights, coeff, _report(weights, coeff, config, reports, sound))


def scores_are_finite(batch: Batch) -> bool:
    """Whether a batch has log-probabilities that a loss can be made of; the same on every rank."""
    return bool(batch.log_prob_ref.isfinite().all() and batch.log_prob_cur.isfinite().all())


def _not_finite(batch: Batch, config: DMPOConfig, sound: Tensor) -> StepResult:
    nothing = torch.full_like(batch.rewards, math.nan)
    weights, coeff = ImportanceWeights(nothing, nothing, nothing[:, 0]), nothing[:, 0]
    unknown = [math.nan] * len(OBJECTIVES[config.loss].REPORTS)
    return StepResult(math.nan, weights, coeff, _report(weights, coeff, config, unknown, sound))


def _report(
    weights: ImportanceWeights, coeff: Tensor, config: DMPOConfig, reports: list[float], sound: Tensor
) -> dict[str, float]:
    means = {name: float(x[sound].double().mean()) for name, x in (("ess", weights.ess), ("coeff", coeff))}
    return means | dict(zip(OBJECTIVES[config.loss].REPORTS, reports, strict=True)) | {"left_out": int((~sound).sum())}
