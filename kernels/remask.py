"""Batched low-confidence remasking: the Python side of the C++/CUDA op."""

from __future__ import annotations

from torch import Tensor

from . import reference


def remask_(
    tokens: Tensor,
    candidates: Tensor,
    confidence: Tensor,
    *,
    mask_id: int,
    num_transfer: int | Tensor | None = None,
    threshold: float | None = None,
    factor: float | None = None,
) -> Tensor:
    """Unmask the most confident candidates of each row in place."""
    return reference.remask_(
        tokens,
        candidates,
        confidence,
        mask_id=mask_id,
        num_transfer=num_transfer,
        threshold=threshold,
        factor=factor,
    )
