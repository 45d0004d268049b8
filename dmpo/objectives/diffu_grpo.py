"""diffu-GRPO: clipped ratios of one-step log-probabilities, and a KL towards the reference (d1, arXiv 2504.12216).

    loss = −mean_j [ min(ρ_j·A, clip(ρ_j, 1 − ε, 1 + ε)·A) − β·(exp(δ_j) − δ_j − 1) ],   A = r − mean r over a group
    ρ_j = exp(log p_θ(o_j) − log p_cur(o_j)),   δ_j = log p_ref(o_j) − log p_θ(o_j)

The mean is over the tokens of a group (one device's batch in the released code), then over groups and R prompt masks.
p_cur and p_ref are scored at rollout time, on the masks of each gradient step of the round. Released defaults
(dllm-reasoning/d1): ε = 0.5, β = 0.04, A not divided by the standard deviation, prompts masked at 0.15, one prompt mask
(replicates 1), tokens up to the first EOS (truncate_at_eos), reference_refresh_steps 64. A group of an earlier round
(buffer_rounds) keeps its own p_cur, and has the prompt masks that it was scored on.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..batch import Batch
from ..config import DMPOConfig
from ..losses import hidden_token_logprobs
from ..masked_lm import HeadFunction, special_ids
from ..parallel import gather_rows
from ..weights import ImportanceWeights, raw_weights
from .one_step import one_step_views
from .terms import Step, Terms

REPORTS: tuple[str, ...] = ("clip_share", "kl")


def group_weights(batch: Batch, config: DMPOConfig) -> tuple[ImportanceWeights, Tensor]:
    """Advantages as weights, and the ESS of |A|, 0 where all rewards agree; there is no proximal coefficient."""
    weights = raw_weights(batch.rewards - batch.rewards.mean(-1, keepdim=True))
    return weights, torch.full_like(weights.ess, math.nan)


def token_losses(
    log_probs: Tensor, old: Tensor, ref: Tensor | None, advantages: Tensor, clip_epsilon: float, kl_beta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of each token, whether the clip cuts its gradient off, and its KL (NaN without a reference); all [N, L].

    min(ρ·A, clip(ρ)·A) is A·min(ρ, 1 + ε) where A ≥ 0 and A·max(ρ, 1 − ε) elsewhere; so no ratio that is cut off
    overflows.

    Args:
        log_probs, old, ref: [N, L], of the policy (with gradient), at rollout time, under the reference; nats.
        advantages: [N].
    """
    change, gain = log_probs - old, advantages.unsqueeze(1)
    low, high = math.log1p(-clip_epsilon), math.log1p(clip_epsilon)
    bounded = torch.where(gain >= 0, change.clamp(max=high), change.clamp(min=low))
    losses = -gain * bounded.exp()
    clipped = torch.where(gain >= 0, change > high, change < low) & (gain != 0)
    if ref is None:
        return losses, clipped, torch.full_like(losses, math.nan)
    drift = ref - log_probs
    kl = drift.expm1() - drift
    return losses + kl_beta * kl, clipped, kl.detach()


def terms(step: Step, weights: ImportanceWeights) -> Terms:
    """Token losses by autograd, a micro-batch at a time; the sizes of groups are known before."""
    batch, config = step.batch, step.config
    mask_id, _ = special_ids(step.model)
    iteration = step.index % config.gradient_steps
    rows, masks = one_step_views(batch.completions, batch.row_ids, config, iteration, mask_id)
    old, ref = _of_views(batch.one_step_cur, iteration), _of_views(batch.one_step_ref, iteration)
    if old is None or (ref is None) != (config.kl_beta == 0):
        raise ValueError("loss 'diffu_grpo' needs the one-step log-probabilities of each round, see Batch")
    counts = gather_rows(step.accelerator, batch.completions.eligible.sum(-1), batch.rewards.numel())
    in_group = counts.view_as(batch.rewards).sum(-1, keepdim=True)
    share = step.spread((1 / in_group.double()).to(batch.rewards).expand_as(batch.rewards))  # of a token, by its view
    counted = rows.eligible & (share > 0).unsqueeze(1)  # of sound groups
    advantages = weights.positive.flatten()[step.own].repeat(config.replicates)

    def head(part: slice) -> HeadFunction[tuple[Tensor, Tensor]]:
        tokens, live = rows.tokens[part], counted[part]
        scores = old[part], None if ref is None else ref[part]

        def loss(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
            log_probs = hidden_token_logprobs(hidden, weight, tokens, live, bias=bias)
            found = token_losses(log_probs, *scores, advantages[part], config.clip_epsilon, config.kl_beta)
            values = torch.stack([value.to(log_probs) for value in found])  # [3, n, L]
            sums = torch.where(live, values, 0.0).sum(-1) @ share[part].to(log_probs)  # [3]
            return sums[0], sums[1:].detach()

        return loss

    return Terms(rows, masks, head)


def _of_views(scores: Tensor | None, iteration: int) -> Tensor | None:
    """Those of one gradient step, [R·B, L], from [B, F, R, L]."""
    return None if scores is None else scores[:, iteration].transpose(0, 1).flatten(0, 1)
