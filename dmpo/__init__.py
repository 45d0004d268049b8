"""dmpo: reinforcement learning for masked diffusion language models by distribution matching.

Names are imported when first used, so that a training script that wants the loss alone pays for torch alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config.keys import DMPOConfig as DMPOConfig
    from .config.sft import SFTConfig as SFTConfig
    from .decoding import Generation as Generation
    from .decoding import generate as generate
    from .losses.wdce import LinearWDCELoss as LinearWDCELoss
    from .losses.wdce import WDCELoss as WDCELoss
    from .losses.wddo import LinearWDDOLoss as LinearWDDOLoss
    from .losses.wddo import WDDOLoss as WDDOLoss
    from .losses.weights import ImportanceWeights as ImportanceWeights
    from .losses.weights import adaptive_coeff as adaptive_coeff
    from .losses.weights import importance_weights as importance_weights
    from .models.adapters import load_adapter as load_adapter
    from .models.loading import load_model as load_model
    from .models.masked_lm import head_weight as head_weight
    from .models.masked_lm import hidden_states as hidden_states
    from .models.masked_lm import lm_head as lm_head
    from .models.new_models import new_model as new_model
    from .models.saving import save_model as save_model
    from .models.tokenizer import load_tokenizer as load_tokenizer
    from .rollouts.batch import Completions as Completions
    from .rollouts.likelihood import sequence_log_prob as sequence_log_prob
    from .rollouts.masking import sample_views as sample_views
    from .sft import SFTTrainer as SFTTrainer
    from .trainer import DMPOTrainer as DMPOTrainer

__version__ = "0.1.0"

_HOME = {
    "Completions": "rollouts.batch",
    "DMPOConfig": "config.keys",
    "DMPOTrainer": "trainer",
    "Generation": "decoding",
    "ImportanceWeights": "losses.weights",
    "LinearWDCELoss": "losses.wdce",
    "LinearWDDOLoss": "losses.wddo",
    "SFTConfig": "config.sft",
    "SFTTrainer": "sft",
    "WDCELoss": "losses.wdce",
    "WDDOLoss": "losses.wddo",
    "adaptive_coeff": "losses.weights",
    "generate": "decoding",
    "head_weight": "models.masked_lm",
    "hidden_states": "models.masked_lm",
    "importance_weights": "losses.weights",
    "lm_head": "models.masked_lm",
    "load_adapter": "models.adapters",
    "load_model": "models.loading",
    "load_tokenizer": "models.tokenizer",
    "new_model": "models.new_models",
    "sample_views": "rollouts.masking",
    "save_model": "models.saving",
    "sequence_log_prob": "rollouts.likelihood",
}

__all__ = sorted(_HOME)


def lazy_exports(package: str, home: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package that imports each name from its module (`home`) at its first use."""

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f".{home[name]}", package), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home})

    return load, names


__getattr__, __dir__ = lazy_exports(__name__, _HOME)
