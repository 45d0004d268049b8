"""Tiny models and checkpoints that several test files share."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from dmpo.models import new_model
from dmpo.models.lora import add_lora
from dmpo.models.masked_lm import MaskedLM
from tests import devices

DATA = Path(__file__).parent / "data"
SIZES = {"vocab_size": 48, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "mlp_hidden_size": 24}
PLAIN = {
    "vocab_size": 48,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "intermediate_size": 24,
    "bos_token_id": None,
    "eos_token_id": 2,
}
ARCHITECTURES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


def random_in_float64(model: Any) -> Any:
    """The model in float64, also inside the norms, which transformers narrows; all parameters are random."""
    draw = torch.Generator().manual_seed(1)
    for parameter in model.double().eval().parameters():
        nn.init.normal_(parameter, std=0.3, generator=draw)
    for norm in model.modules():
        if hasattr(norm, "variance_epsilon"):
            norm.forward = partial(nn.functional.rms_norm, normalized_shape=norm.weight.shape, weight=norm.weight)
    return model


def tiny(**changes: Any) -> MaskedLM:
    # Weights ten times the usual size: with the usual ones attention is so flat that a wrong mask hardly shows.
    model: Any = new_model(**{**SIZES, "mask_id": 3, "eos_id": 2, "init_std": 0.2, **changes})
    return model.to(devices.current())


def with_random_adapters(model: Any, *, rank: int = 4, dropout: float = 0.1) -> Any:
    """Adapters about a fifth as large as the weights."""
    policy = add_lora(model, rank=rank, alpha=6, dropout=dropout)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2, generator=draw)
    return policy


def tokens(rows: int, length: int, vocab_size: int = 48, seed: int = 0) -> Tensor:
    return torch.randint(4, vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed))


def plain_checkpoint(folder: Path, kind: str, **changes: Any) -> Any:
    """A causal checkpoint as transformers saves it, biases and norms included in what is random."""
    config_class, model_class = ARCHITECTURES[kind]
    torch.manual_seed(0)
    model = model_class(config_class(**{**PLAIN, **changes})).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return model


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    fields = json.loads(path.read_text())
    for key, value in changes.items():
        if value is ...:
            fields.pop(key, None)
        else:
            fields[key] = value
    path.write_text(json.dumps(fields))
