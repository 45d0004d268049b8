"""The keys that name special tokens, for a model whose checkpoint does not name them or names others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

TokenId = Annotated[int, Field(strict=True, ge=0)]


@dataclass(kw_only=True)
class TokenIds:
    """Keys of runs, of evaluations and of `dmpo generate`. None keeps what the checkpoint says."""

    mask_id: TokenId | None = None
    """id of the mask token; null takes the checkpoint's"""
    eos_id: TokenId | list[TokenId] | None = None
    """id of the EOS token, or of several tokens that each end a completion; null takes the checkpoint's"""
