"""Adapters on LLaDA's own names as files, and what they make of the base's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dmpo.models.llada_layout import llada_to_llama_name
from dmpo.models.masked_lm import MaskedLM
from tests.tiny_models import DATA

LLADA = DATA / "llada-tiny"
SHAPES = {name: tuple(weight.shape) for name, weight in load_file(LLADA / "model.safetensors").items()}
HEAD = "model.transformer.ff_out"
LINEAR = [name.removesuffix(".weight") for name in SHAPES if "blocks" in name and "norm" not in name]  # 3 blocks of 7


def write_adapter(folder: Path, modules: list[str], rank: int = 2, **fields: Any) -> dict[str, Tensor]:
    """An adapter with the names that peft gives it on LLaDA's own classes; returns its weights."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for module in modules:
        rows, columns = SHAPES[f"{module}.weight"]
        weights[f"base_model.model.{module}.lora_A.weight"] = torch.randn(rank, columns, generator=generator) / 8
        weights[f"base_model.model.{module}.lora_B.weight"] = torch.randn(rows, rank, generator=generator) / 8
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = sorted({module.rpartition(".")[2] for module in modules})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 6, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "bias": "none", **fields}))
    return weights


def merged_by_hand(base: MaskedLM, weights: dict[str, Tensor], scale: float) -> MaskedLM:
    """W + scale·BA in place of W: in float32, rounded once."""
    state = base.state_dict()
    for name, down in weights.items():
        if name.endswith("lora_A.weight"):
            own = llada_to_llama_name(name.removeprefix("base_model.model.")).replace("lora_A.weight", "weight")
            product = weights[name.replace("lora_A", "lora_B")] @ down
            state[own].copy_((state[own].float() + product * scale).to(state[own].dtype))
    return base
