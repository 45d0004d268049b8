"""Stateless randomness: every draw is a function of (seed, purpose, counters), and not of earlier draws.

So a run has no generator state to save. Its draws do not depend on batch size, micro-batches or the number of ranks.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from .kernels.random_numbers import uniform as _uniform


def derive_key(seed: int, *path: str | int) -> int:
    """A 63-bit key for one purpose, for example `derive_key(seed, "views", step)`."""
    text = "/".join(str(name) for name in (seed, *path))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def uniforms(key: int, row_ids: Tensor, columns: int) -> Tensor:
    """Uniforms in [0, 1): entry (i, j) depends on (key, row_ids[i], j) alone; int64 [M] -> float64 [M, columns]."""
    column = torch.arange(columns, dtype=torch.int64, device=row_ids.device)
    counters = row_ids.long().unsqueeze(1) * (1 << 24) + column  # at most 16.7M columns for each row
    return _uniform(key, counters.flatten()).view(len(row_ids), columns)
