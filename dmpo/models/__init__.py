"""Masked diffusion language models: loading, saving, their layouts, tokenizers, LoRA, merging.

Names are imported when first used: checks of paths and names need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import lazy_exports

if TYPE_CHECKING:
    from .adapters import load_adapter as load_adapter
    from .conversion import convert as convert
    from .loading import load_model as load_model
    from .lora import lora_target_modules as lora_target_modules
    from .masked_lm import MaskedLM as MaskedLM
    from .masked_lm import head_weight as head_weight
    from .masked_lm import hidden_states as hidden_states
    from .masked_lm import lm_head as lm_head
    from .masked_lm import unwrap as unwrap
    from .new_models import new_model as new_model
    from .saving import save_model as save_model
    from .tokenizer import load_tokenizer as load_tokenizer

_HOME = {
    "MaskedLM": "masked_lm",
    "convert": "conversion",
    "head_weight": "masked_lm",
    "hidden_states": "masked_lm",
    "lm_head": "masked_lm",
    "load_adapter": "adapters",
    "load_model": "loading",
    "load_tokenizer": "tokenizer",
    "lora_target_modules": "lora",
    "new_model": "new_models",
    "save_model": "saving",
    "unwrap": "masked_lm",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_exports(__name__, _HOME)
