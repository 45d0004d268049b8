"""Arithmetic that the definitions and every kernel share: the accumulation dtype, a row's coefficient and mean NLL."""

from __future__ import annotations

import torch
from torch import Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of arithmetic and results for inputs of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def widened(x: Tensor) -> Tensor:
    """`x` in the dtype of arithmetic."""
    return x.to(accumulation_dtype(x.dtype))


def coefficients(weights: Tensor, baseline: Tensor | None, strength: float) -> Tensor:
    """a = w - s * b in float32, or in float64 if w or b is float64; [N]."""
    if baseline is None:
        return widened(weights)
    dtype = accumulation_dtype(torch.promote_types(weights.dtype, baseline.dtype))
    return weights.to(dtype) - strength * baseline.to(dtype)


def mean_nll(log_probs: Tensor, mask: Tensor) -> Tensor:
    """Per-row mean of -log p over masked positions, 0 for a row without masks; [N, L] -> [N]."""
    return 0.0 - (log_probs * mask).sum(-1) / mask.sum(-1).clamp(min=1)
