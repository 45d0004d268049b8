"""rspo, the squared error of the log-ratio to the target, after arXiv 2605.10218 (docs/maths.md, section 6).

    loss = mean_i (log p_θ(o_i) − log p_ref(o_i) − r_i/α + log Z)²,   Z = mean_j p_ref(o_j)·exp(r_j/α) / p_cur(o_j)

Z is the mean over the group, with the log-probabilities of the rollouts: an importance-weighted estimate of the
normaliser. Its own mean is exact, its logarithm is so for large groups alone. The paper regresses the log-ratio on the
advantage of the reward; this file regresses it on r/α − log Z, whose solution is p* itself.
"""

from __future__ import annotations

import math

from torch import Tensor

from ..losses.weights import ImportanceWeights
from .residuals import log_target, squared_residuals
from .step import Objective, Step, Terms
from .target import group_weights


def terms(step: Step, weights: ImportanceWeights) -> Terms | None:
    """The squared residual, with log Z of the rollouts. The weights are for the report alone."""
    target, group = log_target(step), step.batch.rewards.shape[-1]
    log_z = (target - step.batch.log_prob_cur).logsumexp(-1, keepdim=True) - math.log(group)  # [groups, 1]

    def residual(log_prob: Tensor) -> Tensor:
        return log_prob - target + log_z

    return squared_residuals(step, residual)


RSPO = Objective(group_weights=group_weights, terms=terms)
