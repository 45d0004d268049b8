"""WDCE, the weighted denoising cross-entropy: the loss of DMPO (docs/maths.md, sections 3 and 5; arXiv 2510.08233).

This is the form that training uses: the weights are constants, and the views pass through the model in micro-batches.
`losses.wdce.WDCELoss` and `LinearWDCELoss` are the same loss as modules, for scripts.
`tests/objectives/test_gradient.py` holds both equal, loss and gradient (`test_gradient_is_that_of_the_loss`).
"""

from __future__ import annotations

from ..losses.views import weighted
from ..losses.weights import ImportanceWeights, baseline_weights
from .step import Objective, Step, Terms, weighted_ce
from .target import estimate, fresh_weighted_views, group_weights


def terms(step: Step, weights: ImportanceWeights) -> Terms | None:
    """Σ (w − s·b) · mean NLL over a group, mean over views and groups; the baseline b as the config has it."""
    batch, config, (views, view_weights) = step.batch, step.config, fresh_weighted_views(step)
    theta = None
    if config.baseline == "theta":
        theta = estimate(step, views, view_weights)
        if not bool(theta.isfinite().all()):
            return None
    baseline = baseline_weights(config.baseline, weights.positive, weights.negative, theta, batch.log_prob_cur)
    rows = batch.completions.repeat(config.replicates)
    positive = weighted(step.spread(weights.positive), view_weights)
    spread = None if baseline is None else weighted(step.spread(baseline), view_weights)
    view_loss = weighted_ce(rows, views, positive, spread, config.strength)
    return Terms(rows, views, view_loss, scored=views)


WDCE = Objective(group_weights=group_weights, terms=terms)
