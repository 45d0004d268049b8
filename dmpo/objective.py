"""The gradient of one round: coefficients of every view, and WDCE in micro-batches (algorithm, sections 3 to 5)."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .config import DMPOConfig
from .kernels import linear_weighted_ce
from .likelihood import sequence_log_prob, view_hidden
from .losses import spread_over_views
from .masked_lm import head_weight, special_ids
from .masking import sample_views
from .randomness import derive_key
from .rollout import Rollouts
from .weights import baseline_weights, importance_weights


def accumulate_gradient(
    accelerator: Accelerator,
    model: nn.Module,
    policy: nn.Module,
    rollouts: Rollouts,
    config: DMPOConfig,
    step: int,
) -> tuple[Tensor, Tensor]:
    """Add the gradient of the WDCE loss on fresh views to the parameters; returns the loss and the ESS [groups].

    The coefficients do not depend on the parameters, so the loss is a sum over views and the gradient is the same
    however they are split. `model` is `policy` as accelerate wrapped it.
    """
    mask_id, _ = special_ids(policy)
    views = sample_views(
        rollouts.completions.eligible,
        config.replicates,
        key=derive_key(config.seed, "views", step),
        row_ids=rollouts.row_ids,
        rate_range=(config.mask_rate_min, config.mask_rate_max),
        antithetic=config.antithetic,
    )  # [R·B, L]
    weights, baseline, ess = _coefficients(policy, rollouts, views, config, mask_id)
    rows = rollouts.completions.repeat(config.replicates)
    head, bias = head_weight(policy)
    model.train()
    loss = torch.zeros((), dtype=torch.float64, device=views.device)
    size = config.micro_batch_size or len(views)
    for start in range(0, len(views), size):
        part = slice(start, start + size)
        last = start + size >= len(views)
        with nullcontext() if last else accelerator.no_sync(model):
            part_loss, _ = linear_weighted_ce(
                view_hidden(model, rows[part], views[part], mask_id),
                head,
                rows.tokens[part],
                views[part],
                weights[part],
                None if baseline is None else baseline[part],
                config.strength,
                bias=bias,
            )
            accelerator.backward(part_loss)
        loss += part_loss.detach()
    return loss, ess


def _coefficients(
    policy: nn.Module, rollouts: Rollouts, views: Tensor, config: DMPOConfig, mask_id: int
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Weight and baseline of every view [R·B], and ESS [groups]; each softmax is over the whole group of a prompt."""
    group = (-1, config.num_generations)
    log_prob_cur = rollouts.log_prob_cur.view(group)
    weights = importance_weights(
        rollouts.rewards.view(group),
        rollouts.log_prob_ref.view(group),
        log_prob_cur,
        alpha=config.alpha,
        coeff=config.coeff,
    )
    log_prob_theta = None
    if config.baseline == "theta":
        log_prob_theta = sequence_log_prob(
            policy, rollouts.completions, views, mask_id=mask_id, batch_size=config.rollout_batch_size
        ).view(group)
    baseline = baseline_weights(config.baseline, weights.positive, weights.negative, log_prob_theta, log_prob_cur)
    spread = None if baseline is None else spread_over_views(baseline, config.replicates)
    return spread_over_views(weights.positive, config.replicates), spread, weights.ess
