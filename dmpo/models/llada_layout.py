"""LLaDA's own checkpoint layout: translate weight names and config fields to transformers' Llama and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from transformers import LlamaConfig

# LLaDA name -> Llama name, inside and outside the blocks. With them the logits equal the logits of the authors' code.
_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
_OUTER_NAMES = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
_LLAMA_BLOCK_NAMES = {llama: llada for llada, llama in _BLOCK_NAMES.items()}
_LLAMA_OUTER_NAMES = {llama: llada for llada, llama in _OUTER_NAMES.items()}

# transformers' `key_mapping`: regex of a checkpoint's name -> replacement. All are anchored, so at most one applies.
LLADA_KEY_MAPPING = {
    rf"^model\.transformer\.blocks\.(\d+)\.{llada}\.": rf"model.layers.\1.{llama}."
    for llada, llama in _BLOCK_NAMES.items()
} | {rf"^model\.transformer\.{llada}\.": f"{llama}." for llada, llama in _OUTER_NAMES.items()}

# The values with which a LLaDA config is a Llama. The required fields must be present; the others may be absent (off).
_REQUIRED = {"block_type": "llama", "layer_norm_type": "rms", "activation_type": "silu", "rope": True}
_UNSUPPORTED_UNLESS = {
    "alibi": (False, None),
    "attention_layer_norm": (False, None),
    "bias_for_layer_norm": (False, None),
    "block_group_size": (1, None),
    "embedding_dropout": (0, None),
    "include_bias": (False, None),
    "include_qkv_bias": (False, None),
    "input_emb_norm": (False, None),
    "layer_norm_with_affine": (True, None),
    "residual_dropout": (0, None),
    "scale_logits": (False, None),
}


def llada_to_llama_name(name: str) -> str:
    """Translate a weight or module name from LLaDA's layout to Llama's. A prefix such as `base_model.model.` stays.

    A name of another layout is returned unchanged.
    """
    if match := re.match(r"(.*?)model\.transformer\.blocks\.(\d+)\.(\w+)(.*)", name):
        prefix, layer, module, suffix = match.groups()
        if module in _BLOCK_NAMES:
            return f"{prefix}model.layers.{layer}.{_BLOCK_NAMES[module]}{suffix}"
    elif match := re.match(r"(.*?)model\.transformer\.(\w+)(.*)", name):
        prefix, module, suffix = match.groups()
        if module in _OUTER_NAMES:
            return f"{prefix}{_OUTER_NAMES[module]}{suffix}"
    return name


def llama_to_llada_name(name: str) -> str:
    """Translate a weight or module name from Llama's layout to LLaDA's. Raises ValueError if LLaDA has none."""
    if match := re.match(r"model\.layers\.(\d+)\.(\w+norm|self_attn\.\w+|mlp\.\w+)(.*)", name):
        layer, module, suffix = match.groups()
        if module in _LLAMA_BLOCK_NAMES:
            return f"model.transformer.blocks.{layer}.{_LLAMA_BLOCK_NAMES[module]}{suffix}"
    if match := re.match(r"(model\.embed_tokens|model\.norm|lm_head)(.*)", name):
        module, suffix = match.groups()
        return f"model.transformer.{_LLAMA_OUTER_NAMES[module]}{suffix}"
    raise ValueError(f"the LLaDA layout has no name for the weight {name!r}")


def llama_config_from_llada(fields: Mapping[str, Any]) -> LlamaConfig:
    """LLaDA's config.json as a LlamaConfig. Raises ValueError for a variant that is no Llama or lacks a field."""
    for key, required in _REQUIRED.items():
        if fields.get(key) != required:
            raise ValueError(f"LLaDA config: {key} must be {required!r}, got {fields.get(key)!r}")
    for key, allowed in _UNSUPPORTED_UNLESS.items():
        if fields.get(key) not in allowed:
            raise ValueError(f"LLaDA config: {key} must be {allowed[0]!r}, got {fields[key]!r}")

    hidden_size, num_layers, num_heads = (_positive(fields, key) for key in ("d_model", "n_layers", "n_heads"))
    num_kv_heads = fields.get("n_kv_heads") or (1 if fields.get("multi_query_attention") else num_heads)
    if hidden_size % num_heads or num_heads % num_kv_heads:
        raise ValueError(
            f"LLaDA config: d_model {hidden_size} must be a multiple of n_heads {num_heads}, "
            f"and n_heads a multiple of n_kv_heads {num_kv_heads}"
        )
    mlp_size = fields.get("mlp_hidden_size") or int(fields.get("mlp_ratio", 0) * hidden_size)
    if mlp_size <= 0:
        raise ValueError(f"LLaDA config: mlp_hidden_size or mlp_ratio must give a size > 0, got {mlp_size}")
    config = LlamaConfig(
        vocab_size=fields.get("embedding_size") or _positive(fields, "vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=mlp_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        max_position_embeddings=_positive(fields, "max_sequence_length"),
        rms_norm_eps=fields.get("rms_norm_eps", 1e-5),
        rope_parameters={"rope_type": "default", "rope_theta": float(fields.get("rope_theta", 10000.0))},
        tie_word_embeddings=bool(fields.get("weight_tying", False)),
        attention_dropout=fields.get("attention_dropout", 0.0),
        initializer_range=fields.get("init_std", 0.02),
        bos_token_id=None,
        eos_token_id=fields.get("eos_token_id"),
        pad_token_id=fields.get("pad_token_id"),
        dtype=fields.get("dtype") or fields.get("torch_dtype"),
    )
    config.mask_token_id = fields.get("mask_token_id")
    return config


def llada_config_from_llama(config: LlamaConfig) -> dict[str, Any]:
    """A LlamaConfig as the fields of LLaDA's config.json. Raises ValueError if LLaDA's fields cannot express it."""
    rope = config.rope_parameters or {}
    refused = {
        "hidden_act": config.hidden_act != "silu",
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "head_dim": config.head_dim != config.hidden_size // config.num_attention_heads,
        "rope_parameters": rope.get("rope_type", "default") != "default",
        "prediction_shift": getattr(config, "prediction_shift", 0) != 0,
    }
    if bad := [key for key, is_bad in refused.items() if is_bad]:
        raise ValueError(f"layout 'llada' cannot express {bad[0]}={getattr(config, bad[0])!r}; use 'transformers'")
    return {
        "activation_type": "silu",
        "alibi": False,
        "alibi_bias_max": 8.0,
        "architectures": ["LLaDAModelLM"],
        "attention_dropout": config.attention_dropout,
        "attention_layer_norm": False,
        "attention_layer_norm_with_affine": True,
        "bias_for_layer_norm": False,
        "block_group_size": 1,
        "block_type": "llama",
        "d_model": config.hidden_size,
        "embedding_dropout": 0.0,
        "embedding_size": config.vocab_size,
        "eos_token_id": config.eos_token_id,
        "flash_attention": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "init_cutoff_factor": None,
        "init_device": "meta",
        "init_fn": "mitchell",
        "init_std": config.initializer_range,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "mask_token_id": config.mask_token_id,
        "max_sequence_length": config.max_position_embeddings,
        "mlp_hidden_size": config.intermediate_size,
        "mlp_ratio": 4,
        "model_type": "llada",
        "multi_query_attention": None,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "n_layers": config.num_hidden_layers,
        "pad_token_id": config.pad_token_id,
        "precision": "amp_bf16",
        "residual_dropout": 0.0,
        "rms_norm_eps": config.rms_norm_eps,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": rope["rope_theta"],
        "scale_logits": False,
        "use_cache": False,
        "vocab_size": config.vocab_size,
        "weight_tying": config.tie_word_embeddings,
    }


def _positive(fields: Mapping[str, Any], key: str) -> int:
    value = fields.get(key)
    if not isinstance(value, int) or value <= 0:
        raise ValueError(f"LLaDA config: {key} must be a positive integer, got {value!r}")
    return value
