"""WDDO, weighted direct discriminative optimisation: the alternative of DMPO (docs/maths.md, section 5)."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import logsigmoid

from ..weights import ImportanceWeights
from .target import estimate, fresh_views
from .target import group_weights as group_weights
from .terms import Step, Terms, weighted_ce

REPORTS: tuple[str, ...] = ()


def terms(step: Step, weights: ImportanceWeights) -> Terms | None:
    """The loss, and the constant coefficients of the views that have its gradient.

    With g = mean over R/2 views of −n·NLL, minus log p_cur: dL/dNLL = −(2n/R)·dL/dg, where, for the mean over all
    completions, dL/dg^real = −w·β·σ(−β·g^real) and dL/dg^fake = α_d·β·σ(β·g^fake). Both g are estimated without
    dropout.
    """
    batch, config, positive, views = step.batch, step.config, weights.positive, fresh_views(step)
    half, beta, alpha = config.replicates // 2, config.wddo_beta, config.wddo_alpha
    cut = len(views) // 2
    real, fake = (estimate(step, part) - batch.log_prob_cur for part in (views[:cut], views[cut:]))  # [groups, G]
    terms_of = positive * logsigmoid(beta * real), logsigmoid(-beta * fake)
    real_term, fake_term = (step.of_sound(term).mean() for term in terms_of)
    loss = float(-real_term - alpha * fake_term)
    if not math.isfinite(loss):
        return None
    slopes = (positive * beta * (-beta * real).sigmoid(), -alpha * beta * (beta * fake).sigmoid())
    count = batch.completions.eligible.sum(-1)
    parts = [(step.of_sound(slope) / (half * slope.numel())).flatten()[step.own] * count for slope in slopes]
    rows = batch.completions.repeat(config.replicates)
    coefficients = torch.cat([part.repeat(half) for part in parts])
    return Terms(rows, views, weighted_ce(rows, views, coefficients), loss)
