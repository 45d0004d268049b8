"""wd1, the weighted log-likelihood of one-step log-probabilities (arXiv 2507.08838).

    loss = −Σ_i (w⁺_i − w⁻_i) · Σ_j log p_θ(o_ij | masked prompt),   w^± = softmax_i(±ψ·A_i),   A = r − mean r

over a group (the softmax over one device's batch in the released code), mean over groups and over R prompt masks. This
is the released default (xiaohangt/wd1, trainer `wll_d1_neg`): positive and negative weights, ψ = 1, no reference policy
in the exponents, A not divided by the standard deviation, one prompt mask (replicates 1), tokens up to the first EOS
(truncate_at_eos).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..config.keys import DMPOConfig
from ..losses.weights import ImportanceWeights, importance_weights
from ..rollouts.batch import Batch
from .one_step import views_of_step
from .step import Objective, Step, Terms, weighted_ce


def group_weights(batch: Batch, config: DMPOConfig) -> tuple[ImportanceWeights, Tensor]:
    """w⁺, w⁻ and the ESS of w⁺; there is no proximal coefficient."""
    advantages = batch.rewards - batch.rewards.mean(-1, keepdim=True)
    nothing = torch.zeros_like(advantages)
    weights = importance_weights(config.wd1_psi * advantages, nothing, nothing, alpha=0.0)
    return weights, nothing[:, 0] * torch.nan


def terms(step: Step, weights: ImportanceWeights) -> Terms:
    """Mean NLLs through the kernel, times the tokens that count: their sum."""
    rows, masks, _ = views_of_step(step)
    assert weights.negative is not None
    count = rows.eligible.sum(-1)
    positive, negative = (step.spread(values) * count for values in (weights.positive, weights.negative))
    return Terms(rows, masks, weighted_ce(rows, rows.eligible, positive, negative), scored=rows.eligible)


WD1 = Objective(group_weights=group_weights, terms=terms)
