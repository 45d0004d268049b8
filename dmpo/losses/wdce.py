"""WDCE, the weighted denoising cross-entropy, as drop-in modules over the kernels.

Rows are views: row = replicate · B + sample. `weights` is [B] (one group: the loss is the sum over it) or [groups, G]
with groups · G = B (the sum over each group, then the mean over groups).

These modules are for scripts: autograd differentiates the loss over all views at once. Training uses
`objectives/wdce.py`, which has the same loss in micro-batches. `tests/objectives/test_gradient.py` holds both
equal, loss and gradient (`test_gradient_is_that_of_the_loss`).
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from ..kernels import linear_weighted_ce, weighted_masked_ce
from .baselines import BASELINES
from .views import check_views, hidden_token_logprobs, logits_token_logprobs, mean_log_prob, spread_over_views, weighted
from .weights import baseline_weights


class _WDCE(nn.Module):
    """What the two heads share: baselines, groups and replicates; they differ in how rows become log-probabilities."""

    def __init__(self, baseline: str = "negative", strength: float = 1.0, replicates: int = 4) -> None:
        super().__init__()
        if baseline not in BASELINES:
            raise ValueError(f"unknown baseline {baseline!r}, choose one of {', '.join(BASELINES)}")
        if replicates < 1:
            raise ValueError(f"replicates must be ≥ 1, got {replicates}")
        self.baseline, self.strength, self.replicates = baseline, float(strength), replicates

    def extra_repr(self) -> str:
        return f"baseline={self.baseline!r}, strength={self.strength}, replicates={self.replicates}"

    @abstractmethod
    def _weighted(self, inputs: tuple[Tensor, ...], weights: Tensor, baseline: Tensor | None) -> Tensor: ...

    @abstractmethod
    def _token_logprobs(self, inputs: tuple[Tensor, ...]) -> Tensor: ...

    def _loss(
        self,
        inputs: tuple[Tensor, ...],
        weights: Tensor,
        negative_weights: Tensor | None,
        log_prob_cur: Tensor | None,
        view_weights: Tensor | None,
    ) -> Tensor:
        targets, mask = inputs[-2:]
        like_weights = {"negative_weights": negative_weights, "log_prob_cur": log_prob_cur}
        check_views(targets, mask, self.replicates, weights, view_weights, **like_weights)
        log_prob_theta = None
        if self.baseline == "theta":
            with torch.no_grad():
                log_probs = self._token_logprobs(inputs)  # [R·B, L]
            log_prob_theta = mean_log_prob(log_probs, mask, targets.shape[1], self.replicates, view_weights)
            log_prob_theta = log_prob_theta.view_as(weights)
        baseline = baseline_weights(self.baseline, weights, negative_weights, log_prob_theta, log_prob_cur)
        weights = weighted(spread_over_views(weights, self.replicates), view_weights)  # [R·B]
        baseline = None if baseline is None else weighted(spread_over_views(baseline, self.replicates), view_weights)
        return self._weighted(inputs, weights, None if baseline is None else baseline.to(weights.dtype))


class WDCELoss(_WDCE):
    """Weighted denoising cross-entropy from logits (docs/maths.md, section 5).

    loss = (1/R) Σ_k Σ_i v_ik · (w_i − s·b_i) · (1/m_ik) Σ_masked −log p(o_ij | view_ik),   v = 1 or `view_weights`

    Args:
        baseline: `none`, `mean`, `negative` (the paper's best) or `theta`.
        strength: s, how much of the baseline is subtracted.
        replicates: R, views a completion.
    """

    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        mask: Tensor,
        weights: Tensor,
        negative_weights: Tensor | None = None,
        log_prob_cur: Tensor | None = None,
        view_weights: Tensor | None = None,
    ) -> Tensor:
        """Scalar loss.

        Args:
            logits: floating [R·B, L, V], of each view.
            targets: int64 [R·B, L], the completion's tokens.
            mask: bool [R·B, L], what each view masked; at least one position a row.
            weights: [B] or [groups, G], `importance_weights(...).positive`.
            negative_weights: like weights, for baseline `negative`.
            log_prob_cur: like weights, log-probabilities at rollout time, for baseline `theta`.
            view_weights: [R·B], of views that count differently (`sample_views` with rates `gauss`).

        Raises:
            ValueError: shapes that do not fit, or an argument that the baseline needs is missing.
        """
        return self._loss((logits, targets, mask), weights, negative_weights, log_prob_cur, view_weights)

    def _weighted(self, inputs: tuple[Tensor, ...], weights: Tensor, baseline: Tensor | None) -> Tensor:
        logits, targets, mask = inputs
        return weighted_masked_ce(logits, targets, mask, weights, baseline, self.strength)[0]

    def _token_logprobs(self, inputs: tuple[Tensor, ...]) -> Tensor:
        return logits_token_logprobs(*inputs)


class LinearWDCELoss(_WDCE):
    """`WDCELoss` from hidden states and the lm_head weight: logits are never materialised for a whole batch."""

    def forward(
        self,
        hidden: Tensor,
        lm_head_weight: Tensor,
        targets: Tensor,
        mask: Tensor,
        weights: Tensor,
        negative_weights: Tensor | None = None,
        log_prob_cur: Tensor | None = None,
        view_weights: Tensor | None = None,
    ) -> Tensor:
        """Scalar loss; hidden floating [R·B, L, H], lm_head_weight [V, H], the rest as in `WDCELoss`."""
        return self._loss(
            (hidden, lm_head_weight, targets, mask), weights, negative_weights, log_prob_cur, view_weights
        )

    def _weighted(self, inputs: tuple[Tensor, ...], weights: Tensor, baseline: Tensor | None) -> Tensor:
        hidden, lm_head_weight, targets, mask = inputs
        return linear_weighted_ce(hidden, lm_head_weight, targets, mask, weights, baseline, self.strength)[0]

    def _token_logprobs(self, inputs: tuple[Tensor, ...]) -> Tensor:
        return hidden_token_logprobs(*inputs)
