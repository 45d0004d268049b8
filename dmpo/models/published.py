"""The config of a checkpoint without its weights, and the published checkpoints with their shapes and token ids.

A run on a published checkpoint is planned without a download. Loading never reads the shapes here. docs/models.md shows
the table, and a test holds it to that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import StrictDataclassError

from .files import checkpoint_folder, read_json
from .model_config import bidirectional_config
from .refused import check_name

# Fields of config.json as published, as far as they decide shapes and token ids.
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
# The card of GSAI-ML/iLLaDA-8B-Base has the shapes (7.62 billion parameters). The ids of BOS, EOS and padding are as
# other programs list them for the published config.json, which names no mask token: `model_types.MASK_IDS` does. The
# base of its rotary embedding decides no shape and is left out.
_ILLADA_8B = {
    "model_type": "illada",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 155136,
    "max_position_embeddings": 8192,
    "layer_norm_eps": None,
    "attention_bias": False,
    "mlp_bias": False,
    "resid_pdrop": 0.0,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "torch_dtype": "bfloat16",
}
# Qwen2.5-7B with a mask token. Dream-Coder and DiffuCoder have the same shapes; what else their config.json files say
# is left out. The tokenizer of DiffuCoder has another token for padding than its config.json, 151667.
_DREAM_SHAPES = {
    "model_type": "Dream",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
    "mask_token_id": 151666,
    "eos_token_id": 151643,
    "pad_token_id": 151643,
    "torch_dtype": "bfloat16",
}
_DREAM_7B = _DREAM_SHAPES | {
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "bos_token_id": 151643,
}
# config.json of JetLM/SDAR-4B-Chat. The two others are Qwen3-1.7B and Qwen3-8B with a head of their own: so many bytes
# have their files on the Hub (4.06 and 16.4 GB). Blocks of 4 tokens: the authors' README.
_SDAR_4B = {
    "model_type": "sdar",
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "block_size": 4,
    "torch_dtype": "bfloat16",
}
_SDAR_1_7B = _SDAR_4B | {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
}
_SDAR_8B = _SDAR_4B | {"hidden_size": 4096, "intermediate_size": 12288}
PUBLISHED: Mapping[str, dict[str, Any]] = {
    "GSAI-ML/LLaDA-8B-Base": _LLADA_8B,
    "GSAI-ML/LLaDA-8B-Instruct": _LLADA_8B,
    "GSAI-ML/LLaDA-1.5": _LLADA_8B,
    "GSAI-ML/iLLaDA-8B-Base": _ILLADA_8B,
    "GSAI-ML/iLLaDA-8B-Instruct": _ILLADA_8B,
    "Dream-org/Dream-v0-Base-7B": _DREAM_7B,
    "Dream-org/Dream-v0-Instruct-7B": _DREAM_7B,
    "Dream-org/Dream-Coder-v0-Instruct-7B": _DREAM_SHAPES | {"bos_token_id": 151665},
    "apple/DiffuCoder-7B-Instruct": _DREAM_SHAPES,
    "apple/DiffuCoder-7B-cpGRPO": _DREAM_SHAPES,
    "JetLM/SDAR-1.7B-Chat": _SDAR_1_7B,
    "JetLM/SDAR-4B-Chat": _SDAR_4B,
    "JetLM/SDAR-8B-Chat": _SDAR_8B,
    "Gen-Verse/TraDo-8B-Instruct": _SDAR_8B,
}


def read_model_config(path: str, mask_id: int | None = None, eos_id: int | Sequence[int] | None = None) -> Any:
    """The transformers config of a checkpoint folder, embedded model or hub id.

    Of a hub id one file is fetched, and nothing where `PUBLISHED` has its shape.

    mask_id, eos_id: as in `load_model`.

    Raises:
        ValueError: no such checkpoint, no config.json in it, or a model that `load_model` would refuse.
    """
    check_name(path)
    if path in PUBLISHED and not Path(path).exists():
        return bidirectional_config(dict(PUBLISHED[path]), mask_id, eos_id)
    if "/" in path and not Path(path).expanduser().exists():
        try:
            file = Path(hf_hub_download(path, "config.json"))
        except Exception as error:  # offline, gated, unknown: whatever the reason, the message carries it
            raise ValueError(f"model {path!r} is no folder here, and the Hub gave no config.json: {error}") from error
    else:
        file = checkpoint_folder(path) / "config.json"
    try:
        return bidirectional_config(read_json(file), mask_id, eos_id)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ValueError(f"{file}: {error}") from error
