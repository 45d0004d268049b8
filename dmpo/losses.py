"""WDCE, the weighted denoising cross-entropy, as drop-in modules over the kernels.

Rows are views: row = replicate · B + sample. `weights` is [B] (one group: the loss is the sum over it) or [groups, G]
with groups · G = B (the sum over each group, then the mean over groups).
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from .baselines import BASELINES
from .kernels import linear_token_logprobs, linear_weighted_ce, masked_token_logprobs, weighted_masked_ce
from .weights import baseline_weights


def mean_log_prob(log_probs: Tensor, mask: Tensor, length: Tensor | int, replicates: int) -> Tensor:
    """Monte-Carlo ELBO: mean over views of (length / m) · Σ_masked log p (algorithm, section 2).

    log_probs [R·B, L] (0 where not masked), mask bool [R·B, L], length: tokens that count, int or [B] -> [B].
    """
    per_token = log_probs.sum(-1) / mask.sum(-1).clamp(min=1)  # [R·B]
    return per_token.view(replicates, -1).mean(0) * length


def spread_over_views(values: Tensor, replicates: int) -> Tensor:
    """Per-completion values [B] or [groups, G] as per-row weights [R·B], divided by R and by the number of groups.

    Summed over rows they give (1/R) Σ_k Σ_i within a group and the mean over groups (algorithm, section 5).
    """
    groups = 1 if values.dim() == 1 else values.shape[0]
    return (values / (replicates * groups)).flatten().repeat(replicates)


def logits_token_logprobs(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """log p of each target where masked, 0 elsewhere; [N, L, V], [N, L], bool [N, L] -> float32 [N, L]."""
    return masked_token_logprobs(logits, targets, mask)


def hidden_token_logprobs(
    hidden: Tensor, lm_head_weight: Tensor, targets: Tensor, mask: Tensor, *, bias: Tensor | None = None
) -> Tensor:
    """`logits_token_logprobs` of hidden [N, L, H], lm_head_weight [V, H] and its bias [V], without the logits."""
    rows = linear_token_logprobs(hidden[mask], lm_head_weight, targets[mask], bias=bias)
    return rows.new_zeros(targets.shape).masked_scatter(mask, rows)


def check_views(targets: Tensor, mask: Tensor, replicates: int, weights: Tensor, **like_weights: Tensor | None) -> None:
    """Raise ValueError or TypeError, naming the argument, unless views, weights and what is shaped like them agree."""
    if weights.dim() not in (1, 2) or replicates * weights.numel() != targets.shape[0]:
        raise ValueError(
            f"weights must be [B] or [groups, G] with replicates · B = {targets.shape[0]} rows, "
            f"got shape {tuple(weights.shape)} and replicates {replicates}"
        )
    for name, value in like_weights.items():
        if value is not None and value.shape != weights.shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, weights has {tuple(weights.shape)}")
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be bool, got {mask.dtype}")
    if mask.shape != targets.shape:
        raise ValueError(f"mask has shape {tuple(mask.shape)}, targets has {tuple(targets.shape)}")


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
        self, inputs: tuple[Tensor, ...], weights: Tensor, negative_weights: Tensor | None, log_prob_cur: Tensor | None
    ) -> Tensor:
        targets, mask = inputs[-2:]
        check_views(
            targets, mask, self.replicates, weights, negative_weights=negative_weights, log_prob_cur=log_prob_cur
        )
        log_prob_theta = None
        if self.baseline == "theta":
            with torch.no_grad():
                log_probs = self._token_logprobs(inputs)  # [R·B, L]
            log_prob_theta = mean_log_prob(log_probs, mask, targets.shape[1], self.replicates).view_as(weights)
        baseline = baseline_weights(self.baseline, weights, negative_weights, log_prob_theta, log_prob_cur)
        weights = spread_over_views(weights, self.replicates)  # [R·B]
        baseline = None if baseline is None else spread_over_views(baseline, self.replicates)
        return self._weighted(inputs, weights, None if baseline is None else baseline.to(weights.dtype))


class WDCELoss(_WDCE):
    """Weighted denoising cross-entropy from logits (algorithm, section 5).

    loss = (1/R) Σ_k Σ_i (w_i − s·b_i) · (1/m_ik) Σ_masked −log p(o_ij | view_ik)

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
    ) -> Tensor:
        """Scalar loss.

        Args:
            logits: floating [R·B, L, V], of each view.
            targets: int64 [R·B, L], the completion's tokens.
            mask: bool [R·B, L], what each view masked; at least one position a row.
            weights: [B] or [groups, G], `importance_weights(...).positive`.
            negative_weights: like weights, for baseline `negative`.
            log_prob_cur: like weights, log-probabilities at rollout time, for baseline `theta`.

        Raises:
            ValueError: shapes that do not fit, or an argument that the baseline needs is missing.
        """
        return self._loss((logits, targets, mask), weights, negative_weights, log_prob_cur)

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
    ) -> Tensor:
        """Scalar loss; hidden floating [R·B, L, H], lm_head_weight [V, H], the rest as in `WDCELoss`."""
        return self._loss((hidden, lm_head_weight, targets, mask), weights, negative_weights, log_prob_cur)

    def _weighted(self, inputs: tuple[Tensor, ...], weights: Tensor, baseline: Tensor | None) -> Tensor:
        hidden, lm_head_weight, targets, mask = inputs
        return linear_weighted_ce(hidden, lm_head_weight, targets, mask, weights, baseline, self.strength)[0]

    def _token_logprobs(self, inputs: tuple[Tensor, ...]) -> Tensor:
        return hidden_token_logprobs(*inputs)
