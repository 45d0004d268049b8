"""The typed keys of `dmpo generate`."""

from __future__ import annotations

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from .decoding import DecodingOptions
from .errors import checked_config
from .token_ids import TokenIds


@checked_config
@dataclass(config=ConfigDict(extra="forbid", allow_inf_nan=False), kw_only=True)
class GenerateConfig(DecodingOptions, TokenIds):
    """Keys of `dmpo generate`: `DecodingOptions`, `TokenIds`, and the device."""

    device: str = "cpu"
    """as torch names it"""
    early_stop: bool = True  # another default
