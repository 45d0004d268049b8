"""The typed keys of `dmpo generate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from .decoding import DecodingOptions
from .errors import checked_config
from .weights import WeightKeys


@checked_config
@dataclass(config=ConfigDict(extra="forbid", allow_inf_nan=False), kw_only=True)
class GenerateConfig(WeightKeys, DecodingOptions):
    """Keys of `dmpo generate`: the weights, the prompts, and `DecodingOptions`."""

    OLDER_NAMES: ClassVar[Mapping[str, str]] = {"batch_size": "rollout_batch_size"}

    # Prompts
    max_prompt_length: int | None = None
    """tokens; null for what the model has room for. A longer prompt is an error"""
    rollout_batch_size: int = 16
    """prompts of one forward"""

    # Decoding
    early_stop: bool = True  # another default

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rollout_batch_size", "max_prompt_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be ≥ 1, got {value}")
