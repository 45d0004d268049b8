"""What the objectives of DMPO share: weights towards its target, and noised views (docs/maths.md, sections 2 and 4)."""

from __future__ import annotations

from torch import Tensor

from ..config.keys import DMPOConfig
from ..distributed.ranks import gather_rows
from ..distributed.sharding import whole_parameters
from ..losses.weights import ImportanceWeights, adaptive_coeff, importance_weights, raw_weights
from ..randomness import derive_key
from ..rollouts.batch import Batch
from ..rollouts.likelihood import sequence_log_prob
from ..rollouts.masking import WeightedViews, views_of
from ..rollouts.scoring import pass_limits
from .step import Step


def group_weights(batch: Batch, config: DMPOConfig) -> tuple[ImportanceWeights, Tensor]:
    """Weights of every group [groups, G] and its proximal coefficient [groups] (section 3)."""
    scores = (batch.rewards, batch.log_prob_ref, batch.log_prob_cur)
    coeff = batch.rewards.new_full(batch.rewards.shape[:1], config.coeff)
    if config.weighting == "reward":
        return raw_weights(batch.rewards), coeff
    if config.ess_target is not None:
        coeff = adaptive_coeff(*scores, alpha=config.alpha, ess_target=config.ess_target).to(coeff)
    return importance_weights(*scores, alpha=config.alpha, coeff=coeff), coeff


def fresh_views(step: Step) -> Tensor:
    """Masks of this rank's completions that no other step has, bool [R·B, L], each of the same weight (section 4).

    Raises:
        ValueError: the views of the config have weights of their own.
    """
    views = fresh_weighted_views(step)
    if views.weights is not None:
        raise ValueError(
            f"the views of view_rates '{step.config.view_rates}' have weights of their own: the loss must take them "
            "from fresh_weighted_views, or choose view_rates uniform or stratified"
        )
    return views.masks


def fresh_weighted_views(step: Step, sets: int = 1) -> WeightedViews:
    """Views of this rank's completions that no other step has, R·B rows, with their weights if they have any.

    sets: R/sets views of each completion are an estimate of its own, see `views_of`.
    """
    batch, config = step.batch, step.config
    return views_of(
        config,
        batch.completions.eligible,
        batch.row_ids,
        replicates=config.replicates,
        key=derive_key(config.seed, "views", step.index),
        positions=config.view_positions,
        order=batch.drawn_order,
        sets=sets,
    )


def estimate(step: Step, views: Tensor, view_weights: Tensor | None = None) -> Tensor:
    """log p_θ [groups, G] of all ranks' completions, of which each rank gives its views; no gradient, no dropout."""
    batch, size = step.batch, step.config.rollout_batch_size
    with whole_parameters(step.model) as policy:
        own = sequence_log_prob(
            policy,
            batch.completions,
            views,
            mask_id=step.mask_id,
            batch_size=size,
            limits=pass_limits(step.config, size),
            view_weights=view_weights,
        )
    return gather_rows(step.accelerator, own, batch.rewards.numel()).view_as(batch.rewards)
