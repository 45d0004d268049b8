"""Squared residuals of the target p* ∝ p_ref·exp(r/α), on two independent halves of views (docs/maths.md, section 6).

    loss = mean_i e¹_i · e²_i,   e^h_i = log p_θ^h(o_i) − log p_ref(o_i) − r_i/α + log Z^h

Half h of the views of completion i gives the estimate log p_θ^h. The square of one noisy estimate is too large by its
variance. The product of two independent estimates has the square of their mean as its mean. Its gradient is
e² ∇log p_θ¹ + e¹ ∇log p_θ². So a pass without gradient gives the coefficient of each view, as for WDDO.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..losses.views import weighted
from .step import Step, Terms, weighted_ce
from .target import estimate, fresh_weighted_views

Residual = Callable[[Tensor], Tensor]  # takes log p_θ of one half, [groups, G]; returns e, [groups, G]


def log_target(step: Step) -> Tensor:
    """log(p_ref·exp(r/α)) of all ranks' completions, not normalised, [groups, G]."""
    return step.batch.log_prob_ref + step.batch.rewards / step.config.alpha


def squared_residuals(step: Step, residual: Residual) -> Terms | None:
    """The loss, and the constant coefficients of the views that have its gradient. No dropout is live in the residuals.

    With n tokens that count and B completions: dL/dlog p¹ = e²/B, and log p¹ = mean over R/2 views of −n·NLL, so a view
    of the first half has the coefficient −2n·e²/(R·B) of its NLL. Where log Z^h is the mean over a group, its own
    derivative adds nothing, because the residuals of a group then sum to 0.
    """
    batch, half, views = step.batch, step.config.replicates // 2, fresh_weighted_views(step, sets=2)
    of_halves = [step.of_finite(residual(estimate(step, *of_half))) for of_half in views.halves()]
    loss = float((of_halves[0] * of_halves[1]).mean())
    if not math.isfinite(loss):
        return None
    count = batch.completions.eligible.sum(-1)
    other_halves = [(-e / (half * e.numel())).flatten()[step.own] * count for e in reversed(of_halves)]
    coefficients = weighted(torch.cat([of_half.repeat(half) for of_half in other_halves]), views.weights)
    rows = batch.completions.repeat(step.config.replicates)
    return Terms(rows, views.masks, weighted_ce(rows, views.masks, coefficients), loss, views.masks)
