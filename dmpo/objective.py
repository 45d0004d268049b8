"""The gradient of one step (algorithm, sections 3 to 6): coefficients of every view, then one walk over the views.

Every loss here has, to first order, the gradient of Σ a_n · mean NLL_n over views n, with constants a_n. They are found
first, for whole groups over all ranks; then the views pass through the model once, in micro-batches of any size.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from .batch import Batch
from .config import DMPOConfig
from .kernels import linear_weighted_ce
from .likelihood import Completions, apply_head_to_views, sequence_log_prob
from .losses import spread_over_views
from .masked_lm import special_ids
from .masking import sample_views
from .parallel import gather_rows, rank_rows, summed
from .randomness import derive_key
from .sharding import whole_parameters
from .weights import ImportanceWeights, adaptive_coeff, baseline_weights, importance_weights, raw_weights


@dataclass(frozen=True)
class StepResult:
    """loss: over all ranks; weights: w, ESS of each group; coeff: c of each group, [groups]."""

    loss: float
    weights: ImportanceWeights
    coeff: Tensor


def group_weights(batch: Batch, config: DMPOConfig) -> tuple[ImportanceWeights, Tensor]:
    """Weights of every group [groups, G] and its proximal coefficient [groups] (section 3)."""
    scores = (batch.rewards, batch.log_prob_ref, batch.log_prob_cur)
    coeff = batch.rewards.new_full(batch.rewards.shape[:1], config.coeff)
    if config.weighting == "reward":
        return raw_weights(batch.rewards), coeff
    if config.ess_target is not None:
        coeff = adaptive_coeff(*scores, alpha=config.alpha, ess_target=config.ess_target).to(coeff)
    return importance_weights(*scores, alpha=config.alpha, coeff=coeff), coeff


def accumulate_gradient(
    accelerator: Accelerator, model: nn.Module, policy: nn.Module, batch: Batch, config: DMPOConfig, step: int
) -> StepResult:
    """Add the gradient of the loss on fresh views to the parameters; the mean over ranks is the loss's own gradient.

    It does not depend on `micro_batch_size` nor on the ranks, but for rounding and dropout; all ranks make the same
    number of passes. `model` is `policy` as accelerate wrapped it. Where log-probabilities that the coefficients are
    made of are not finite, the loss is NaN, on every rank, and there is no gradient.
    """
    mask_id, _ = special_ids(policy)
    views = sample_views(
        batch.completions.eligible,
        config.replicates,
        key=derive_key(config.seed, "views", step),
        row_ids=batch.row_ids,
        rate_range=(config.mask_rate_min, config.mask_rate_max),
        antithetic=config.antithetic,
    )  # [R·B, L]
    if not scores_are_finite(batch):
        return _not_finite(batch)
    weights, coeff = group_weights(batch, config)
    found = _wddo if config.loss == "wddo" else _wdce
    coefficients, baseline, known = found(accelerator, model, batch, weights.positive, weights.negative, views, config)
    if known is not None and not math.isfinite(known):
        return _not_finite(batch)
    rows = batch.completions.repeat(config.replicates)
    model.train()
    world, total = accelerator.num_processes, batch.rewards.numel()
    most = config.replicates * -(-total // world)  # views of the rank that has most
    size = config.micro_batch_size or most
    walked = torch.zeros((), dtype=torch.float64, device=views.device)
    for start in range(0, most, size):
        part = slice(start, start + size) if start < len(views) else slice(0, 1)
        live = 1.0 if start < len(views) else 0.0  # a rank with fewer views makes the pass, and it counts nothing
        accelerator.sync_gradients = start + size >= most  # for DeepSpeed, whose backward then also steps
        with nullcontext() if accelerator.sync_gradients else accelerator.no_sync(model):
            part_loss = _part_loss(
                model,
                rows[part],
                views[part],
                coefficients[part],
                None if baseline is None else baseline[part],
                config.strength,
                mask_id,
            )
            accelerator.backward(part_loss * (live * world))  # ranks are averaged
        walked += part_loss.detach() * live
    (loss,) = summed(accelerator, walked) if known is None else (known,)
    return StepResult(loss, weights, coeff)


def scores_are_finite(batch: Batch) -> bool:
    """Whether a batch has log-probabilities that a loss can be made of; the same on every rank."""
    return bool(batch.log_prob_ref.isfinite().all() and batch.log_prob_cur.isfinite().all())


def _not_finite(batch: Batch) -> StepResult:
    nothing = torch.full_like(batch.rewards, math.nan)
    weights = ImportanceWeights(nothing, nothing, nothing[:, 0])
    return StepResult(math.nan, weights, nothing[:, 0])


def _part_loss(
    model: nn.Module,
    rows: Completions,
    views: Tensor,
    weights: Tensor,
    baseline: Tensor | None,
    strength: float,
    mask_id: int,
) -> Tensor:
    def loss(hidden: Tensor, head: Tensor, bias: Tensor | None) -> Tensor:
        return linear_weighted_ce(hidden, head, rows.tokens, views, weights, baseline, strength, bias=bias)[0]

    return apply_head_to_views(model, rows, views, mask_id, loss)


def _wdce(
    accelerator: Accelerator,
    model: nn.Module,
    batch: Batch,
    positive: Tensor,
    negative: Tensor | None,
    views: Tensor,
    config: DMPOConfig,
) -> tuple[Tensor, Tensor | None, float | None]:
    """Weight and baseline of every view of this rank [R·B]; the loss is that of the walk (sections 4 and 5), or NaN."""
    theta = None
    if config.baseline == "theta":
        theta = _estimate(accelerator, model, batch, views, config)
        if not bool(theta.isfinite().all()):
            return positive, None, math.nan
    baseline = baseline_weights(config.baseline, positive, negative, theta, batch.log_prob_cur)
    local = rank_rows(positive.numel(), accelerator.process_index, accelerator.num_processes)
    groups, replicates = len(positive), config.replicates

    def spread(values: Tensor) -> Tensor:
        return spread_over_views((values / groups).flatten()[local], replicates)

    return spread(positive), None if baseline is None else spread(baseline), None


def _wddo(
    accelerator: Accelerator,
    model: nn.Module,
    batch: Batch,
    positive: Tensor,
    negative: Tensor | None,
    views: Tensor,
    config: DMPOConfig,
) -> tuple[Tensor, None, float]:
    """Coefficient of every view of this rank [R·B], and the loss (section 6).

    With g = mean over R/2 views of −n·NLL, minus log p_cur: dL/dNLL = −(2n/R)·dL/dg, where, for the mean over all
    completions, dL/dg^real = −w·β·σ(−β·g^real) and dL/dg^fake = α_d·β·σ(β·g^fake). Both g are estimated without
    dropout.
    """
    half, beta, alpha = config.replicates // 2, config.wddo_beta, config.wddo_alpha
    cut = len(views) // 2
    real, fake = (
        _estimate(accelerator, model, batch, part, config) - batch.log_prob_cur for part in (views[:cut], views[cut:])
    )  # [groups, G]
    loss = -(positive * logsigmoid(beta * real)).mean() - alpha * logsigmoid(-beta * fake).mean()
    slopes = (positive * beta * (-beta * real).sigmoid(), -alpha * beta * (beta * fake).sigmoid())
    local = rank_rows(positive.numel(), accelerator.process_index, accelerator.num_processes)
    count = batch.completions.eligible.sum(-1)
    parts = [(slope / (half * slope.numel())).flatten()[local] * count for slope in slopes]
    return torch.cat([part.repeat(half) for part in parts]), None, float(loss)


def _estimate(accelerator: Accelerator, model: nn.Module, batch: Batch, views: Tensor, config: DMPOConfig) -> Tensor:
    """log p_θ [groups, G] of all ranks' completions on the given views of this rank's; no gradient, no dropout."""
    mask_id, _ = special_ids(model)
    size = config.rollout_batch_size
    with whole_parameters(model) as policy:
        own = sequence_log_prob(policy, batch.completions, views, mask_id=mask_id, batch_size=size)
    return gather_rows(accelerator, own, batch.rewards.numel()).view_as(batch.rewards)
