"""dmpo: reinforcement learning for masked diffusion language models by distribution matching.

Names are imported when first used, so that a training script that wants the loss alone pays for torch alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapters import load_adapter as load_adapter
    from .config import DMPOConfig as DMPOConfig
    from .decoding import Generation as Generation
    from .decoding import generate as generate
    from .discriminative import LinearWDDOLoss as LinearWDDOLoss
    from .discriminative import WDDOLoss as WDDOLoss
    from .losses import LinearWDCELoss as LinearWDCELoss
    from .losses import WDCELoss as WDCELoss
    from .masked_lm import head_weight as head_weight
    from .masked_lm import hidden_states as hidden_states
    from .masked_lm import lm_head as lm_head
    from .models import load_model as load_model
    from .models import load_tokenizer as load_tokenizer
    from .models import save_model as save_model
    from .trainer import DMPOTrainer as DMPOTrainer
    from .weights import ImportanceWeights as ImportanceWeights
    from .weights import adaptive_coeff as adaptive_coeff
    from .weights import importance_weights as importance_weights

__version__ = "0.1.0"

_HOME = {
    "DMPOConfig": "config",
    "DMPOTrainer": "trainer",
    "Generation": "decoding",
    "ImportanceWeights": "weights",
    "LinearWDCELoss": "losses",
    "LinearWDDOLoss": "discriminative",
    "WDCELoss": "losses",
    "WDDOLoss": "discriminative",
    "adaptive_coeff": "weights",
    "generate": "decoding",
    "head_weight": "masked_lm",
    "hidden_states": "masked_lm",
    "importance_weights": "weights",
    "lm_head": "masked_lm",
    "load_adapter": "adapters",
    "load_model": "models",
    "load_tokenizer": "models",
    "save_model": "models",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dmpo' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
