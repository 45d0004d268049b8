"""Masked diffusion language models: loading, saving, their layouts, tokenizers, LoRA, merging.

Names are imported when first used: checks of paths and names need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapters import load_adapter as load_adapter
    from .loading import load_model as load_model
    from .new_models import new_model as new_model
    from .saving import save_model as save_model
    from .tokenizer import load_tokenizer as load_tokenizer

_HOME = {
    "load_adapter": "adapters",
    "load_model": "loading",
    "load_tokenizer": "tokenizer",
    "new_model": "new_models",
    "save_model": "saving",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dmpo.models' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
