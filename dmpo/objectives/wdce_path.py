"""WDCE on the path that a random_order rollout drew (docs/maths.md, section 5).

A view is a canvas of the path, and it scores the token that was drawn there, from the very conditional that the view
shows. So the importance weights are exact, and no baseline that is a constant of the policy moves the gradient's
expectation: while p_θ is the policy that drew, the sum over completions of ∇log p_θ(path) has the expectation 0. With
`theta` this holds at every gradient step of a round. Views at random do not have this property, unless the policy's
orders agree.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..distributed.ranks import gather_rows
from ..distributed.sharding import whole_parameters
from ..losses.weights import ImportanceWeights, baseline_weights
from ..randomness import derive_key, uniforms
from ..rollouts.scoring import path_log_prob
from .step import Objective, Step, Terms, weighted_ce
from .target import group_weights


def path_views(step: Step, drawn_order: Tensor) -> tuple[Tensor, Tensor]:
    """What each view masks and what it scores, bool [R·B, L] both: R canvases of each path, evenly spaced.

    The first one is drawn at random, so every token of the path is scored with the same chance. drawn_order: int
    [B, L], a permutation of 0 to L − 1 a row.
    """
    batch, replicates = step.batch, step.config.replicates
    length = drawn_order.shape[1]
    first = uniforms(derive_key(step.config.seed, "path", step.index), batch.row_ids, 1)[:, 0]
    views = torch.arange(replicates, device=first.device).unsqueeze(1)
    now = ((first + views) * length / replicates).long().clamp(max=length - 1)  # [R, B]
    of_views, now = drawn_order.repeat(replicates, 1), now.flatten().unsqueeze(1)
    return of_views >= now, of_views == now


def terms(step: Step, weights: ImportanceWeights) -> Terms | None:
    """As `wdce.terms`, with log p of the paths in `theta`."""
    batch, config, order = step.batch, step.config, step.batch.drawn_order
    if order is None:
        raise ValueError("loss 'wdce_path' needs the order of drawing; give the batch its drawn_order")
    theta = None
    if config.baseline == "theta":
        with whole_parameters(step.model) as policy:
            own = path_log_prob(policy, batch.completions, order, config)
        # a group that is left out has mask tokens, which have no probability
        of_ranks = gather_rows(step.accelerator, own.to(batch.log_prob_cur.dtype), batch.rewards.numel())
        theta = step.of_finite(of_ranks.view_as(batch.rewards))
        if not bool(theta.isfinite().all()):
            return None
    masks, scored = path_views(step, order)
    baseline = baseline_weights(config.baseline, weights.positive, weights.negative, theta, batch.log_prob_cur)
    rows = batch.completions.repeat(config.replicates)
    spread = None if baseline is None else step.spread(baseline)
    return Terms(
        rows, masks, weighted_ce(rows, scored, step.spread(weights.positive), spread, config.strength), scored=scored
    )


WDCE_PATH = Objective(group_weights=group_weights, terms=terms, on_path=True)
