"""Masked-token cross-entropy from logits: log-probabilities and the weighted loss on masked rows only."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference


def masked_token_logprobs(
    logits: Tensor, targets: Tensor, mask: Tensor | None = None, *, inplace_backward: bool = False
) -> Tensor:
    """log p(target) at masked positions, 0 elsewhere; differentiable.

    logits [N, L, V] floating, targets int64 [N, L], mask bool [N, L] (None: every position) -> float32 [N, L].
    """
    if mask is None:
        return reference.masked_token_logprobs(logits, targets)
    rows = reference.masked_token_logprobs(logits[mask], targets[mask])
    return torch.zeros(targets.shape, dtype=rows.dtype, device=rows.device).masked_scatter(mask, rows)


def weighted_masked_ce(
    logits: Tensor,
    targets: Tensor,
    mask: Tensor,
    weights: Tensor,
    baseline: Tensor | None = None,
    strength: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """sum_n (w_n - strength * b_n) * mean NLL_n over masked tokens, and the mean NLLs.

    logits [N, L, V], targets int64 [N, L], mask bool [N, L], weights and baseline [N] -> scalar, float32 [N].
    """
    nll = reference.mean_nll(masked_token_logprobs(logits, targets, mask), mask)
    return (reference.coefficients(weights, baseline, strength).to(nll.dtype) * nll).sum(), nll
