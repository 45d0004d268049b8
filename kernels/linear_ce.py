"""Masked-token cross-entropy from hidden states and lm_head: logits exist for masked rows only."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference


def linear_token_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, bias: Tensor | None = None, max_logits_bytes: int = 1 << 28
) -> Tensor:
    """log p(target) of each row; differentiable.

    hidden [M, H], weight [V, H], targets int64 [M], bias [V] -> float32 [M].
    """
    return reference.linear_token_logprobs(hidden, weight, targets, bias=bias)


def linear_weighted_ce(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    mask: Tensor,
    weights: Tensor,
    baseline: Tensor | None = None,
    strength: float = 1.0,
    *,
    bias: Tensor | None = None,
    max_logits_bytes: int = 1 << 28,
) -> tuple[Tensor, Tensor]:
    """`weighted_masked_ce` from hidden states, logits of masked rows only.

    hidden [N, L, H], weight [V, H], targets int64 [N, L], mask bool [N, L], weights and baseline [N] -> scalar, float32 [N].
    """
    rows = linear_token_logprobs(hidden[mask], weight, targets[mask], bias=bias, max_logits_bytes=max_logits_bytes)
    log_probs = torch.zeros(targets.shape, dtype=rows.dtype, device=rows.device).masked_scatter(mask, rows)
    nll = reference.mean_nll(log_probs, mask)
    return (reference.coefficients(weights, baseline, strength).to(nll.dtype) * nll).sum(), nll
