"""The config.json of a checkpoint as the config of a bidirectional model, and back. No weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig

from .llada_layout import llama_config_from_llada
from .model_types import BLOCK_SIZES, CLASSES, MASK_IDS, OLD_KEYS
from .placement import parse_dtype
from .refused import find_refused
from .token_ids import listed_ids

# What the code of a type computes, and the class here does not: such a field must have one of these values, or be
# absent. iLLaDA with `layer_norm_eps` has LayerNorm in place of RMSNorm.
_UNSUPPORTED_UNLESS: dict[str, dict[str, tuple[Any, ...]]] = {
    "illada": {"layer_norm_eps": (None,), "resid_pdrop": (0, None), "rope_scaling": (None,)},
    "Dream": {"block_size": (None,)},  # DreamReasoner: block-causal, and its predictions are not shifted
}


def bidirectional_config(
    fields: dict[str, Any], mask_id: int | None = None, eos_id: int | Sequence[int] | None = None
) -> PreTrainedConfig:
    """The transformers config of a bidirectional model, from the fields of a checkpoint's config.json.

    mask_id, eos_id: in place of those of the checkpoint; None keeps them.

    Raises ValueError for a model that `load_model` would refuse, or without a mask token.
    """
    model_type = fields.get("model_type")
    if family := find_refused(fields=fields):
        raise ValueError(f"model_type {model_type!r}: {family.message}")
    fields = fields | {name: _stated_dtype(name, fields[name]) for name in ("dtype", "torch_dtype") if name in fields}
    if model_type == "llada":
        config: PreTrainedConfig = llama_config_from_llada(fields)
    elif model_type in CLASSES:
        for key, allowed in _UNSUPPORTED_UNLESS.get(model_type, {}).items():
            if fields.get(key) not in allowed:
                raise ValueError(f"{model_type} config: {key} must be {allowed[0]!r}, got {fields[key]!r}")
        # auto_map points at remote code; token ids that the file does not name must not take Llama's defaults.
        named = {key: value for key, value in fields.items() if key != "auto_map"}
        config_class: Any = CLASSES[model_type].config_class
        config = config_class.from_dict({"bos_token_id": None, "eos_token_id": None} | named)
    else:
        raise ValueError(f"model_type {model_type!r} is not supported; supported are llada, {', '.join(CLASSES)}")
    if model_type in BLOCK_SIZES:
        config.block_size = _block_size(fields.get("block_size"), BLOCK_SIZES[model_type])
    _check_shift(config)
    make_bidirectional(config, mask_id, eos_id, usual_mask_id=MASK_IDS.get(str(model_type)))
    return config


def make_bidirectional(
    config: PreTrainedConfig,
    mask_id: int | None = None,
    eos_id: int | Sequence[int] | None = None,
    *,
    usual_mask_id: int | None = None,
) -> None:
    """Set, in place, what the config of every model here carries: token ids, `is_causal=False`, no cache by itself.

    Args:
        mask_id, eos_id: in place of those of the config; None keeps them.
        usual_mask_id: the mask token of published models of this type, where nothing else names one.

    Raises ValueError without a mask token, for a token id outside the vocabulary, or if a given mask token is an EOS.
    """
    if config.hidden_size % config.num_attention_heads and getattr(config, "head_dim", None) is None:
        raise ValueError(f"hidden size {config.hidden_size} is not a multiple of {config.num_attention_heads} heads")
    given, stated = mask_id is not None or eos_id is not None, getattr(config, "mask_token_id", None)
    mask_id = next((token for token in (mask_id, stated, usual_mask_id) if token is not None), None)
    if mask_id is None:
        raise ValueError(
            "the checkpoint does not name its mask token; give its id in one of three ways: mask_token_id in the "
            "checkpoint's config.json, the config key mask_id, or load_model(..., mask_id=...)"
        )
    config.mask_token_id = mask_id
    if eos_id is not None:
        config.eos_token_id = eos_id if isinstance(eos_id, int) else list(eos_id)
    if config.pad_token_id is None:
        config.pad_token_id = next(iter(listed_ids(config.eos_token_id)), None)
    for name in ("mask_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(config, name)
        for token_id in value if isinstance(value, list) else [value]:
            if token_id is not None and not (isinstance(token_id, int) and 0 <= token_id < config.vocab_size):
                raise ValueError(f"{name} must be in [0, {config.vocab_size}), the vocabulary, got {token_id!r}")
    if given and mask_id in listed_ids(config.eos_token_id):
        raise ValueError(f"mask_id and eos_id must differ, got {mask_id} for both")
    config.is_causal = False
    config.use_cache = False


def _check_shift(config: PreTrainedConfig) -> None:
    shift = getattr(config, "prediction_shift", 0)
    if isinstance(shift, bool) or shift not in (0, 1):
        raise ValueError(f"prediction_shift must be 0 or 1, got {shift!r}")
    if shift and getattr(config, "block_size", None):
        raise ValueError("prediction_shift is 1, and attention is block-causal: the two do not go together")


def _block_size(stated: Any, usual: int | None) -> int | None:
    if stated is not None and (isinstance(stated, bool) or not isinstance(stated, int) or stated < 1):
        raise ValueError(f"block_size must be a positive integer, got {stated!r}")
    return usual if stated is None else stated


def config_json(config: PreTrainedConfig) -> str:
    """The text of a model's config.json, with the keys that the code of its type reads."""
    fields = json.loads(config.to_json_string())
    if fields.get("block_size") is None:
        fields.pop("block_size", None)
    if config.model_type not in OLD_KEYS:
        return json.dumps(fields, indent=2, sort_keys=True)
    rope = dict(fields.pop("rope_parameters"))
    fields["rope_theta"] = rope.pop("rope_theta")
    fields["rope_scaling"] = None if rope.get("rope_type", "default") == "default" else rope
    fields["torch_dtype"] = fields.pop("dtype", None)
    return json.dumps(fields, indent=2, sort_keys=True)


def _stated_dtype(name: str, value: Any) -> str | None:
    """The name of a dtype as transformers takes it; config.json may say "torch.bfloat16", too."""
    try:
        dtype = parse_dtype(value)
    except ValueError as error:
        raise ValueError(str(error).replace("dtype", name, 1)) from None
    return None if isinstance(dtype, str) else str(dtype).removeprefix("torch.")
