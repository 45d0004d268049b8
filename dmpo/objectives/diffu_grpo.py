"""diffu-GRPO: clipped ratios of one-step log-probabilities, and a KL towards the reference (d1, arXiv 2504.12216).

    loss = −mean_j [ min(ρ_j·A, clip(ρ_j, 1 − ε, 1 + ε)·A) − β·(exp(δ_j) − δ_j − 1) ],   A = r − mean r over a group
    ρ_j = exp(log p_θ(o_j) − log p_cur(o_j)),   δ_j = log p_ref(o_j) − log p_θ(o_j)

The mean is over the tokens of a group (one device's batch in the released code), then over groups and R prompt masks.
p_cur and p_ref are scored at rollout time, on the masks of each gradient step of the round. Released defaults
(dllm-reasoning/d1): ε = 0.5, β = 0.04, A not divided by the standard deviation, prompts masked at 0.15, one prompt mask
(replicates 1), tokens up to the first EOS (truncate_at_eos), reference_refresh_steps 64. A group of an earlier round
(buffer_rounds) keeps its own p_cur, and has the prompt masks that it was scored on.

It reports clip_share, the share of tokens whose gradient the clip cuts off, and kl, the mean KL estimate towards the
reference, nats a token, NaN where kl_beta is 0. `ess` is the effective sample size of |A|, 0 where all rewards agree.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..config.keys import DMPOConfig
from ..distributed.ranks import gather_rows
from ..losses.views import hidden_token_logprobs
from ..losses.weights import ImportanceWeights, raw_weights
from ..rollouts.batch import Batch, Completions
from .one_step import one_step_log_probs, views_of_step
from .step import Objective, Step, Terms

CUR, REF = "one_step_cur", "one_step_ref"  # scores of each round, [B, F, R, L]


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


def score_round(model: nn.Module, completions: Completions, row_ids: Tensor, config: DMPOConfig) -> dict[str, Tensor]:
    """log p in nats of each token at each of the F gradient steps of the round, under p_cur: [B, F, R, L]."""
    return {CUR: one_step_log_probs(model, completions, row_ids, config)}


def score_reference(
    model: nn.Module, completions: Completions, row_ids: Tensor, config: DMPOConfig
) -> dict[str, Tensor]:
    """The same under p_ref, where the loss has a KL."""
    return {REF: one_step_log_probs(model, completions, row_ids, config)} if config.kl_beta else {}


def terms(step: Step, weights: ImportanceWeights) -> Terms:
    """Token losses by autograd, a micro-batch at a time; the sizes of groups are known before."""
    batch, config = step.batch, step.config
    wanted = {CUR, REF} if config.kl_beta else {CUR}
    if missing := wanted - batch.scores.keys():
        raise ValueError(
            f"loss 'diffu_grpo' needs the one-step log-probabilities of each round: the batch has no score "
            f"{', '.join(sorted(missing))}; hand this objective to `rollout.collect`"
        )
    rows, masks, iteration = views_of_step(step)
    old = _of_views(batch.scores[CUR], iteration)
    ref = _of_views(batch.scores[REF], iteration) if config.kl_beta else None
    counts = gather_rows(step.accelerator, batch.completions.eligible.sum(-1), batch.rewards.numel())
    in_group = counts.view_as(batch.rewards).sum(-1, keepdim=True)
    share = step.spread((1 / in_group.double()).to(batch.rewards).expand_as(batch.rewards))  # of a token, by its view
    counted = rows.eligible & (share > 0).unsqueeze(1)  # of finite groups
    advantages = weights.positive.flatten()[step.own].repeat(config.replicates)

    def view_loss(views: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        live = counted[views]
        log_probs = hidden_token_logprobs(hidden, weight, rows.tokens[views], live, bias=bias)
        scores = old[views], None if ref is None else ref[views]
        of_tokens = token_losses(log_probs, *scores, advantages[views], config.clip_epsilon, config.kl_beta)
        values = torch.stack([value.to(log_probs) for value in of_tokens])  # loss, clipped, KL: [3, n, L]
        sums = torch.where(live, values, 0.0).sum(-1) @ share[views].to(log_probs)  # [3]
        return sums[0], sums[1:].detach()

    return Terms(rows, masks, view_loss, scored=counted)


def _of_views(scores: Tensor, iteration: int) -> Tensor:
    """The scores of one gradient step by view, [R·B, L], from [B, F, R, L]."""
    return scores[:, iteration].transpose(0, 1).flatten(0, 1)


DIFFU_GRPO = Objective(
    group_weights=group_weights,
    terms=terms,
    reports=("clip_share", "kl"),
    score_round=score_round,
    score_reference=score_reference,
)
