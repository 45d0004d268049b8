"""tb, trajectory balance with the group's own log Z (arXiv 2605.13935; docs/maths.md, section 6).

    loss = mean_i (log p_θ(o_i) − log p_ref(o_i) − r_i/α + log Z)²
    log Z = mean_j (log p_ref(o_j) + r_j/α − log p_θ(o_j))

This log Z is the one that makes the loss of a group smallest, so the loss is the variance of the log-ratio in a group.
A learned log Z would need a parameter for each prompt, and most runs see a prompt once.
"""

from __future__ import annotations

from torch import Tensor

from ..losses.weights import ImportanceWeights
from .residuals import log_target, squared_residuals
from .step import Objective, Step, Terms
from .target import group_weights


def terms(step: Step, weights: ImportanceWeights) -> Terms | None:
    """The squared residual, centred in each group. The weights are for the report alone."""
    target = log_target(step)

    def residual(log_prob: Tensor) -> Tensor:
        log_ratio = log_prob - target
        return log_ratio - log_ratio.mean(-1, keepdim=True)

    return squared_residuals(step, residual)


TB = Objective(group_weights=group_weights, terms=terms)
