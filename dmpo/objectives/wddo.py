"""WDDO, weighted direct discriminative optimisation: the alternative of DMPO (docs/maths.md, section 5).

This is the form that training uses: constant coefficients of mean NLLs, whose gradient is the gradient of the loss.
`losses.wddo.WDDOLoss` and `LinearWDDOLoss` are the same loss as modules, for scripts.
`tests/objectives/test_gradient.py` holds both equal, loss and gradient (`test_wddo_gradient_is_that_of_the_loss`).
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import logsigmoid

from ..losses.views import weighted
from ..losses.weights import ImportanceWeights
from .step import Objective, Step, Terms, weighted_ce
from .target import estimate, fresh_weighted_views, group_weights


def terms(step: Step, weights: ImportanceWeights) -> Terms | None:
    """The loss, and the constant coefficients of the views that have its gradient.

    With g = mean over R/2 views of −n·NLL, minus log p_cur: dL/dNLL = −(2n/R)·dL/dg, where, for the mean over all
    completions, dL/dg^real = −w·β·σ(−β·g^real) and dL/dg^fake = α_d·β·σ(β·g^fake). Both g are estimated without
    dropout.
    """
    batch, config, positive, views = step.batch, step.config, weights.positive, fresh_weighted_views(step, sets=2)
    half, beta, alpha = config.replicates // 2, config.wddo_beta, config.wddo_alpha
    real, fake = (estimate(step, *of_half) - batch.log_prob_cur for of_half in views.halves())  # [groups, G]
    real_terms, fake_terms = positive * logsigmoid(beta * real), logsigmoid(-beta * fake)
    real_term, fake_term = (step.of_finite(values).mean() for values in (real_terms, fake_terms))
    loss = float(-real_term - alpha * fake_term)
    if not math.isfinite(loss):
        return None
    slopes = (positive * beta * (-beta * real).sigmoid(), -alpha * beta * (beta * fake).sigmoid())
    count = batch.completions.eligible.sum(-1)
    halves = [(step.of_finite(slope) / (half * slope.numel())).flatten()[step.own] * count for slope in slopes]
    rows = batch.completions.repeat(config.replicates)
    coefficients = weighted(torch.cat([of_half.repeat(half) for of_half in halves]), views.weights)
    return Terms(rows, views.masks, weighted_ce(rows, views.masks, coefficients), loss, views.masks)


WDDO = Objective(group_weights=group_weights, terms=terms)
