"""The keys of the weights that `dmpo eval` and `dmpo generate` load. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .token_ids import TokenIds


@dataclass(kw_only=True)
class WeightKeys(TokenIds):
    """Which weights of a model are loaded, how and where; the model itself is named beside them."""

    # Model
    adapter: str | None = None
    """LoRA adapter to put on the model: a folder, hub id or the folder of a run"""
    checkpoint: str = "newest"
    """of a run: newest, best (on the validation split, see `dmpo.storage.checkpoints`) or step-N"""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """of the weights; null keeps the checkpoint's"""
    attn_implementation: str = "sdpa"
    """as in transformers"""
    load_in_4bit: bool = False
    """load the linear layers of the blocks in 4 bits (NF4, `pip install dmpo[quant]`)"""
    device: str = "auto"
    """as torch names it; auto takes the GPU if there is one, or else the CPU"""
