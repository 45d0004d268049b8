"""Stateless randomness: every draw is a function of (seed, purpose, counters), and not of earlier draws.

So a run has no generator state to save. Its draws do not depend on batch size, micro-batches or the number of ranks.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from .kernels.random_numbers import _MIX, _mix, seed_key
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


def seed_change(key: int, device: torch.device) -> Tensor:
    """What `with_seed_zero` needs of a key, on the device; int64 [1]. So compiled code serves every seed."""
    change = torch.tensor([seed_key(key) ^ seed_key(0)], pin_memory=device.type == "cuda")
    return change.to(device, non_blocking=True)


def with_seed_zero(row_ids: Tensor, change: Tensor) -> Tensor:
    """Row ids that give with seed 0 the random numbers that `row_ids` give with the key of `change`; int64 [M]."""
    return _unmix(_mix(row_ids) ^ change)


def uniforms_of_change(change: Tensor, row_ids: Tensor, columns: Tensor) -> Tensor:
    """`uniforms` for the key of `change`, at chosen columns.

    row_ids int64 [M], columns int64 [M, N] -> float64 [M, N].
    """
    counters = row_ids.unsqueeze(1) * (1 << 24) + columns
    return _uniform(0, with_seed_zero(counters.flatten(), change)).view(columns.shape)


def _unmix(x: Tensor) -> Tensor:
    """The inverse of `kernels.random_numbers._mix`."""
    for shift, inverse in _UNMIX:
        x = x * inverse
        # A third term would be 0: it shifts by more than 64 bits.
        x = x ^ _shifted(x, shift) ^ _shifted(x, 2 * shift)
    return x


def _shifted(x: Tensor, shift: int) -> Tensor:
    """x >> shift without the sign."""
    return (x >> shift) & ((1 << (64 - shift)) - 1)


def _signed(x: int) -> int:
    """A number mod 2^64 as int64 has it."""
    return x - (x >> 63 << 64)


_UNMIX = tuple((shift, _signed(pow(factor, -1, 1 << 64))) for shift, factor in reversed(_MIX))
