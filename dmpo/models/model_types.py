"""The model types that load: `model_type` of config.json, the class of the model, and its mask token.

The checkpoints of iLLaDA, SDAR and Dream come with modelling code of their own, which is never executed. Their weights
have the names and shapes of transformers' Llama, Qwen3 and Qwen2.
"""

from __future__ import annotations

from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from .masked_lm import Dream, MaskedLlama, MaskedLM, MaskedQwen2, MaskedQwen3


class ILLaDAConfig(LlamaConfig):
    """Llama's config under the model type of iLLaDA's checkpoints."""

    model_type = "illada"


class ILLaDA(MaskedLM, LlamaForCausalLM):
    """iLLaDA (arXiv 2606.25331): a bidirectional Llama with grouped queries and a tied head."""

    config_class = ILLaDAConfig
    official_architecture = "ILLaDAForCausalLM"


class SDARConfig(Qwen3Config):
    """Qwen3's config under the model type of the checkpoints of SDAR and TraDo."""

    model_type = "sdar"


class SDAR(MaskedLM, Qwen3ForCausalLM):
    """SDAR (arXiv 2510.06303) and TraDo: a Qwen3 with block-causal attention."""

    config_class = SDARConfig
    official_architecture = "SDARForCausalLM"


CLASSES: dict[str, type[MaskedLM]] = {
    "llama": MaskedLlama,
    "qwen2": MaskedQwen2,
    "qwen3": MaskedQwen3,
    "Dream": Dream,
    "illada": ILLaDA,
    "sdar": SDAR,
}

# The mask token of checkpoints whose config.json may not name it. iLLaDA: the authors' README. SDAR: the example of the
# authors' README. Dream: the default of the checkpoints' own configuration_dream.py.
MASK_IDS = {"Dream": 151666, "illada": 5, "sdar": 151669}

# Types whose config.json is read by code that was written for transformers 4: `rope_theta`, `torch_dtype`.
OLD_KEYS = ("Dream", "illada", "sdar")

# The types that may have block-causal attention, with the tokens of a block where config.json names no `block_size`.
# SDAR: 4, the authors' README; its published config.json files may lack the field. Qwen3: then every token attends to
# every other.
BLOCK_SIZES: dict[str, int | None] = {"sdar": 4, "qwen3": None}
