"""The config of a checkpoint without its weights, and the shapes of published checkpoints.

A run on a published checkpoint is planned without a download. Loading never reads the shapes here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import StrictDataclassError

from .files import checkpoint_folder, read_json
from .loading import bidirectional_config

# Fields of config.json as published, as far as they decide shapes.
_LLADA_8B = {
    "model_type": "llada",
    "block_type": "llama",
    "layer_norm_type": "rms",
    "activation_type": "silu",
    "rope": True,
    "d_model": 4096,
    "n_layers": 32,
    "n_heads": 32,
    "n_kv_heads": 32,
    "mlp_hidden_size": 12288,
    "embedding_size": 126464,
    "vocab_size": 126464,
    "max_sequence_length": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "weight_tying": False,
    "mask_token_id": 126336,
    "eos_token_id": 126081,
    "pad_token_id": 126081,
    "torch_dtype": "bfloat16",
}
_DREAM_7B = {
    "model_type": "Dream",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "mask_token_id": 151666,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "pad_token_id": 151643,
    "torch_dtype": "bfloat16",
}
PUBLISHED: Mapping[str, dict[str, Any]] = {
    "GSAI-ML/LLaDA-8B-Base": _LLADA_8B,
    "GSAI-ML/LLaDA-8B-Instruct": _LLADA_8B,
    "Dream-org/Dream-v0-Base-7B": _DREAM_7B,
    "Dream-org/Dream-v0-Instruct-7B": _DREAM_7B,
}


def read_model_config(path: str) -> Any:
    """The transformers config of a checkpoint folder, embedded model or hub id.

    Of a hub id one file is fetched, and nothing where `PUBLISHED` has its shape.

    Raises:
        ValueError: no such checkpoint, no config.json in it, or a model that `load_model` would refuse.
    """
    if path in PUBLISHED and not Path(path).exists():
        return bidirectional_config(dict(PUBLISHED[path]), None)
    if "/" in path and not Path(path).expanduser().exists():
        try:
            file = Path(hf_hub_download(path, "config.json"))
        except Exception as error:  # offline, gated, unknown: whatever the reason, the message carries it
            raise ValueError(f"model {path!r} is no folder here, and the Hub gave no config.json: {error}") from error
    else:
        file = checkpoint_folder(path) / "config.json"
    try:
        return bidirectional_config(read_json(file), None)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ValueError(f"{file}: {error}") from error
