"""WDDO, weighted direct discriminative optimisation: the alternative to WDCE (docs/maths.md, section 5).

These modules are for scripts: autograd differentiates the loss over all views at once. Training uses
`objectives/wddo.py`, which has the same loss in micro-batches. `tests/objectives/test_gradient.py` holds both
equal, loss and gradient (`test_wddo_gradient_is_that_of_the_loss`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from .views import check_views, hidden_token_logprobs, logits_token_logprobs, mean_log_prob


class _WDDO(nn.Module):
    """What the two heads share; they differ in how rows become log-probabilities."""

    def __init__(self, alpha: float = 1.0, beta: float = 1.0, replicates: int = 4) -> None:
        super().__init__()
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be finite and ≥ 0, got {value}")
        if replicates < 2 or replicates % 2:
            raise ValueError(f"replicates must be even and ≥ 2, one half for each estimate, got {replicates}")
        self.alpha, self.beta, self.replicates = float(alpha), float(beta), replicates

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, beta={self.beta}, replicates={self.replicates}"

    def _loss(
        self,
        log_probs: Tensor,
        targets: Tensor,
        mask: Tensor,
        weights: Tensor,
        log_prob_cur: Tensor,
        view_weights: Tensor | None,
    ) -> Tensor:
        half, rows = self.replicates // 2, targets.shape[0] // 2
        real, fake = (
            mean_log_prob(log_probs[views], mask[views], targets.shape[1], half, of_views) - log_prob_cur.flatten()
            for views, of_views in (
                (slice(None, rows), None if view_weights is None else view_weights[:rows]),
                (slice(rows, None), None if view_weights is None else view_weights[rows:]),
            )
        )
        real_term = (weights.flatten() * logsigmoid(self.beta * real)).mean()
        return -real_term - self.alpha * logsigmoid(-self.beta * fake).mean()

    def _check(
        self, targets: Tensor, mask: Tensor, weights: Tensor, log_prob_cur: Tensor, view_weights: Tensor | None
    ) -> None:
        check_views(targets, mask, self.replicates, weights, view_weights, log_prob_cur=log_prob_cur)
        for name, value in (("weights", weights), ("log_prob_cur", log_prob_cur)):
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} must be finite, got {value.flatten().tolist()[:8]}")


class WDDOLoss(_WDDO):
    """Weighted direct discriminative optimisation from logits (docs/maths.md, section 5).

    loss = − mean_i w_i · log σ(β·g_i^real) − α · mean_i log σ(−β·g_i^fake), g_i = log p_θ(o_i) − log p_cur(o_i)

    Views 0 to R/2 − 1 of a completion give g^real, the others g^fake; the two must be independent. Antithetic views
    come in pairs of complements, and a pair must stay in one half: draw them with R a multiple of 4, or draw views that
    are not antithetic.

    Args:
        alpha: weight of the second term. beta: sharpness of the discriminator.
        replicates: R, views a completion; even.
    """

    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        mask: Tensor,
        weights: Tensor,
        log_prob_cur: Tensor,
        view_weights: Tensor | None = None,
    ) -> Tensor:
        """Scalar loss.

        Args:
            logits: floating [R·B, L, V], of each view; row = view · B + completion.
            targets: int64 [R·B, L], the completion's tokens.
            mask: bool [R·B, L], the positions that each view masked; at least one a row.
            weights: [B] or [groups, G], `importance_weights(...).positive`.
            log_prob_cur: like weights, log-probabilities at rollout time (nats).
            view_weights: [R·B], of views that count differently (`sample_views` with rates `gauss`); each half has the
                views and weights of its own R/2 nodes.

        Raises:
            ValueError: shapes that do not fit, or a weight or log-probability that is not finite.
            TypeError: mask is not bool.
        """
        self._check(targets, mask, weights, log_prob_cur, view_weights)
        log_probs = logits_token_logprobs(logits, targets, mask)
        return self._loss(log_probs, targets, mask, weights, log_prob_cur, view_weights)


class LinearWDDOLoss(_WDDO):
    """`WDDOLoss` from hidden states and the lm_head weight: logits are never materialised for a whole batch."""

    def forward(
        self,
        hidden: Tensor,
        lm_head_weight: Tensor,
        targets: Tensor,
        mask: Tensor,
        weights: Tensor,
        log_prob_cur: Tensor,
        view_weights: Tensor | None = None,
    ) -> Tensor:
        """Scalar loss; hidden floating [R·B, L, H], lm_head_weight [V, H], the rest as in `WDDOLoss`."""
        self._check(targets, mask, weights, log_prob_cur, view_weights)
        log_probs = hidden_token_logprobs(hidden, lm_head_weight, targets, mask)
        return self._loss(log_probs, targets, mask, weights, log_prob_cur, view_weights)
