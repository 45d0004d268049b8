"""Tiny random checkpoints in the layout of published ones: names, config keys, dtype, shards, tokenizer files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from dmpo.models.model_types import CLASSES

TOKENS = ("<bos>", "<pad>", "<eos>", "<turn>", "<end>", "<mask>", "1", "2", "3", "4", ".", "5")
BOS, PAD, EOS, MASK = 0, 1, 2, 5  # as of iLLaDA

_SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": len(TOKENS),
}
_OF_ALL: dict[str, Any] = {
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rope_scaling": None,
    "torch_dtype": "bfloat16",
}
# The keys of config.json as published. Sizes and token ids are tiny.
PUBLISHED_KEYS: dict[str, dict[str, Any]] = {
    "illada": {
        "architectures": ["ILLaDAForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling_illada.ILLaDAForCausalLM"},
        "attention_bias": False,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "layer_norm_eps": None,
        "max_position_embeddings": 8192,
        "mlp_bias": False,
        "pad_token_id": PAD,
        "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "transformers_version": "4.46.2",
        "use_cache": False,
    },
    "sdar": {
        "architectures": ["SDARForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM"},
        "attention_bias": False,
        "attn_implementation": "flex_attention",
        "bos_token_id": EOS,
        "debug": False,
        "eos_token_id": EOS,
        "ep_size": 1,
        "fuse_cross_entropy": True,
        "head_dim": 8,
        "max_position_embeddings": 32768,
        "max_window_layers": 36,
        "micro_forward": False,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000,
        "skip_checkpoint": False,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "transformers_version": "4.52.4",
        "use_cache": False,
        "use_deepep": False,
        "use_sliding_window": False,
    },
    "Dream": {
        "architectures": ["DreamModel"],
        "auto_map": {"AutoModel": "modeling_dream.DreamModel"},
        "bos_token_id": EOS,
        "eos_token_id": EOS,
        "mask_token_id": MASK,
        "max_position_embeddings": 131072,
        "max_window_layers": 28,
        "pad_token_id": EOS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "transformers_version": "4.46.2",
        "use_cache": False,
        "use_mrope": False,
        "use_sliding_window": False,
    },
}


def published_checkpoint(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    """Write a checkpoint of a model type, in bfloat16 and three shards or more; its weights by their names."""
    fields = {"model_type": kind} | _SIZES | _OF_ALL | PUBLISHED_KEYS[kind]
    model_class: Any = CLASSES[kind]
    model = model_class(model_class.config_class.from_dict(dict(fields)))
    draw = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2, generator=draw)
    weights = {name: weight.bfloat16() for name, weight in model.state_dict().items()}
    if fields["tie_word_embeddings"]:
        del weights["lm_head.weight"]
    folder.mkdir(parents=True)
    save_torch_state_dict(weights, folder, max_shard_size=2000)
    assert len(list(folder.glob("*.safetensors"))) > 2
    (folder / "config.json").write_text(json.dumps(fields, indent=2))
    tokenizer().save_pretrained(folder)
    return weights


def tokenizer() -> PreTrainedTokenizerFast:
    """A token is a character. As iLLaDA's and SDAR's, it does not say which token is the mask."""
    inner = Tokenizer(models.WordLevel({token: i for i, token in enumerate(TOKENS)}, unk_token="."))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, padding_side="left", **special)
