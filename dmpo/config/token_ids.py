"""The keys that name special tokens, for a model whose checkpoint does not name them or names others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_mask_id(value: Any) -> Any:
    if value is not None and not _is_id(value):
        raise ValueError(f"mask_id must be a token id, an integer ≥ 0, got {value!r}")
    return value


def _check_eos_id(value: Any) -> Any:
    several = isinstance(value, list | tuple) and len(value) > 0 and all(map(_is_id, value))
    if value is not None and not _is_id(value) and not several:
        raise ValueError(f"eos_id must be a token id, an integer ≥ 0, or a list of token ids, got {value!r}")
    return value


@dataclass(kw_only=True)
class TokenIds:
    """Keys of runs, of evaluations and of `dmpo generate`. None keeps what the checkpoint says."""

    # Model
    mask_id: Annotated[int | None, BeforeValidator(_check_mask_id)] = None
    """id of the mask token; null takes the checkpoint's"""
    eos_id: Annotated[int | list[int] | None, BeforeValidator(_check_eos_id)] = None
    """id of the EOS token, or of several tokens that each end a completion; null takes the checkpoint's"""
