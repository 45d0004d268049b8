"""Token ids that are given as one or as several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def listed_ids(value: Any) -> tuple[int, ...]:
    """Token ids that are given as one, as several or as None, each once."""
    if value is None:
        return ()
    return tuple(dict.fromkeys(value)) if isinstance(value, list | tuple) else (value,)


def one_of(tokens: Tensor, ids: Sequence[int]) -> Tensor:
    """Whether each token is one of a few ids; int64 [...] -> bool [...]. Nothing is copied to the device."""
    result = torch.zeros_like(tokens, dtype=torch.bool)
    for token_id in ids:
        result |= tokens == token_id
    return result
