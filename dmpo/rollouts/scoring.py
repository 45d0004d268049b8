"""Scores of a round: log-probabilities under the policy and the reference, and what an objective asks for besides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..config.checks import largest_mask_rate
from ..config.keys import DMPOConfig
from ..decoding import Generation
from ..models.masked_lm import special_ids
from ..randomness import derive_key
from .batch import Batch, Completions
from .chunks import PassLimits
from .likelihood import ordered_log_probs, sequence_log_prob
from .masking import WeightedViews, views_of

RowScores = Callable[[nn.Module, Completions, Tensor, DMPOConfig], dict[str, Tensor]]


def no_scores(model: nn.Module, completions: Completions, row_ids: Tensor, config: DMPOConfig) -> dict[str, Tensor]:
    """No scores."""
    return {}


@dataclass(frozen=True, kw_only=True)
class RoundScorer:
    """Which scores of its own an objective wants of a round's completions, beside their ELBOs; by default none.

    Both are functions (model, completions, row_ids, config) of this rank's B completions, called without gradient by
    all ranks together. They return floating tensors [B, ...] by name, which the batch, the buffer and checkpoints carry
    as `Batch.scores`; the two functions use different names. A group with a score that is not finite is left out of the
    step. Dropout may be live: a forward of their own belongs inside `masked_lm.without_dropout`.

    score_round: under the policy that drew the round; the scores stay as they are.
    score_reference: under the reference; the scores are computed again when the reference is refreshed.
    on_path: weigh completions by log p of the path that was drawn, in place of their ELBO; then the batch has its
        `drawn_order`. Needs the decoder random_order.
    """

    score_round: RowScores = field(default=no_scores)
    score_reference: RowScores = field(default=no_scores)
    on_path: bool = False


def joined_scores(of_round: dict[str, Tensor], of_reference: dict[str, Tensor]) -> dict[str, Tensor]:
    """The scores of both functions of a `RoundScorer`. Raises ValueError where both return a score of the same name."""
    if twice := of_round.keys() & of_reference.keys():
        names = ", ".join(sorted(twice))
        raise ValueError(f"score_round and score_reference of an objective both return {names}; rename one of them")
    return of_round | of_reference


def score_log_prob(model: nn.Module, completions: Completions, row_ids: Tensor, config: DMPOConfig) -> Tensor:
    """ELBO of completions [B] on K views that depend on their row ids alone: the same ones for every policy."""
    mask_id, _ = special_ids(model)
    views = score_views(completions.eligible, row_ids, config)
    return sequence_log_prob(
        model,
        completions,
        views.masks,
        mask_id=mask_id,
        batch_size=config.rollout_batch_size,
        limits=pass_limits(config, config.rollout_batch_size),
        view_weights=views.weights,
    )


def pass_limits(config: DMPOConfig, rows: int, *, whole: bool = False) -> PassLimits:
    """What passes at once where so many rows of the greatest length do; `whole`: views that mask whole completions."""
    mask_rate = largest_mask_rate(config, whole=whole)
    return PassLimits.of_rows(rows, config.max_prompt_length, config.gen_length, mask_rate)


def score_views(eligible: Tensor, row_ids: Tensor, config: DMPOConfig) -> WeightedViews:
    """The K views, K·B rows, on which `score_log_prob` scores completions."""
    return views_of(config, eligible, row_ids, replicates=config.score_views, key=derive_key(config.seed, "score"))


def path_log_prob(model: nn.Module, completions: Completions, order: Tensor, config: DMPOConfig) -> Tensor:
    """Exact log-probability [B] of the path that random_order drew; order int [B, L], as in `Generation`."""
    mask_id, _ = special_ids(model)
    of_tokens = ordered_log_probs(model, completions, order, mask_id=mask_id, batch_size=config.rollout_batch_size)
    return of_tokens.sum(-1)


def score_again(objective: RoundScorer, model: nn.Module, batch: Batch, config: DMPOConfig) -> Tensor:
    """log p [B] of a round's completions under another policy, as the round was scored: of the path, or the ELBO."""
    if objective.on_path:
        assert batch.drawn_order is not None
        return path_log_prob(model, batch.completions, batch.drawn_order, config)
    return score_log_prob(model, batch.completions, batch.row_ids, config)


def rollout_mismatch(generation: Generation, eligible: Tensor, log_prob_cur: Tensor) -> Tensor:
    """How much likelier the decoder found its tokens, in its order, than training's ELBO does; nats a token, [B].

    The mean recorded log-probability of the drawn tokens that count, minus the ELBO per token that counts. Taking the
    most confident tokens first gives a value above 0 without any fault (topk). What a parallel, cached or guided
    decoder adds to the value of topk is its drift from the likelihood that training uses. With early_stop and without
    truncate_at_eos the ELBO also counts the EOS that fill a row, which are nearly certain: the value is then lower for
    shorter completions.
    """
    counted = (generation.order >= 0) & eligible
    recorded = (generation.log_probs * counted).sum(-1) / counted.sum(-1)
    return recorded - log_prob_cur / eligible.sum(-1)


def row_hash(tokens: Tensor) -> Tensor:
    """A number [B] that differs where rows of tokens [B, L] differ, except with a chance of 2^-52; exact in float64."""
    factors = torch.tensor([derive_key(i) | 1 for i in range(tokens.shape[1])], device=tokens.device)
    return (tokens * factors).sum(-1) >> 12
