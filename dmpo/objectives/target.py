"""What the objectives of DMPO share: weights towards its target, and noised views (docs/maths.md, sections 2 and 4)."""

from __future__ import annotations

from torch import Tensor

from ..batch import Batch
from ..config import DMPOConfig
from ..likelihood import sequence_log_prob
from ..masked_lm import special_ids
from ..masking import sample_views
from ..parallel import gather_rows
from ..randomness import derive_key
from ..sharding import whole_parameters
from ..weights import ImportanceWeights, adaptive_coeff, importance_weights, raw_weights
from .terms import Step


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
    """Masks of this rank's completions that no other step has, bool [R·B, L] (section 2)."""
    config = step.config
    return sample_views(
        step.batch.completions.eligible,
        config.replicates,
        key=derive_key(config.seed, "views", step.index),
        row_ids=step.batch.row_ids,
        rate_range=(config.mask_rate_min, config.mask_rate_max),
        antithetic=config.antithetic,
    )


def estimate(step: Step, views: Tensor) -> Tensor:
    """log p_θ [groups, G] of all ranks' completions on the given views of this rank's; no gradient, no dropout."""
    batch = step.batch
    mask_id, _ = special_ids(step.model)
    size = step.config.rollout_batch_size
    with whole_parameters(step.model) as policy:
        own = sequence_log_prob(policy, batch.completions, views, mask_id=mask_id, batch_size=size)
    return gather_rows(step.accelerator, own, batch.rewards.numel()).view_as(batch.rewards)
