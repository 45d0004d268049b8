"""Logits, targets and masks for the tests of masked cross-entropy."""

from __future__ import annotations

import torch
from torch import Tensor

NAN = float("nan")


def inputs(count: int, length: int, vocab: int, dtype: torch.dtype = torch.float32, scale: float = 4.0) -> list[Tensor]:
    """Logits, targets and mask; at least one masked row, and unmasked ones full of NaN with target -100."""
    g = torch.Generator().manual_seed(count * 1000 + vocab)
    logits = (torch.randn(count, length, vocab, generator=g) * scale).to(dtype)
    targets = torch.randint(0, vocab, (count, length), generator=g)
    mask = torch.rand(count, length, generator=g) < 0.6
    mask[0, 0] = True
    logits[~mask], targets[~mask] = NAN, -100
    return [logits, targets, mask]
