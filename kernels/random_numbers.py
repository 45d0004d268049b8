"""Random numbers of a draw: functions of (seed, row id) alone, whatever the order or the batch of the rows."""

from __future__ import annotations

import torch
from torch import Tensor

_MIX = ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1))


def _mix(x: Tensor) -> Tensor:
    """splitmix64 finaliser (Steele, Lea & Flood 2014) on wrapping int64."""
    for shift, factor in _MIX:
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x


def seed_key(seed: int) -> int:
    """The seed (any integer, taken mod 2^64) as a well-mixed signed 64-bit key: `_mix` on a Python integer."""
    key = (seed + 0x9E3779B97F4A7C15) % (1 << 64)
    for shift, factor in _MIX:
        key = (key ^ (key >> shift)) * factor % (1 << 64)
    return key - (key >> 63 << 64)


def row_state(seed: int, row_ids: Tensor) -> Tensor:
    """The row's 64 random bits, a function of (seed, row id) alone; int64 [M]."""
    return _mix(_mix(row_ids.long()) ^ seed_key(seed))


def uniform(seed: int, row_ids: Tensor) -> Tensor:
    """Counter-based uniforms in [0, 1), float64, a function of (seed, row id) alone; [M] -> [M]."""
    return ((row_state(seed, row_ids) >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


def exponentials(seed: int, row_ids: Tensor, size: int) -> Tensor:
    """Counter-based unit exponentials -log(1 - u), float64, a function of (seed, row id, index); [M] -> [M, size]."""
    steps = torch.arange(1, size + 1, device=row_ids.device) * -0x61C8864680B583EB
    bits = _mix(row_state(seed, row_ids).unsqueeze(-1) + steps) & ((1 << 63) - 1)
    return -torch.log1p(-(bits.double() + 0.5) * 2.0**-63)
