"""Golden losses and gradients of the published code, and their inputs as our losses take them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests import devices

GOLDEN = Path(__file__).parent / "data" / "golden"
TENSORS = load_file(GOLDEN / "objective.safetensors")
FACTS = json.loads((GOLDEN / "objective.json").read_text())


def golden_inputs(case: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    i, prompt = case["i"], FACTS["prompt_length"]
    tensors = {name: tensor.to(devices.current()) for name, tensor in TENSORS.items()}
    completion = tensors["completion_ids"].repeat(case["replicates"], 1)
    named = {name: tensors[name] for name in ("weights", "negative_weights", "log_prob_cur")}
    inputs = {"targets": completion, "mask": tensors[f"{i}.mask"].bool(), **named}
    return tensors[f"{i}.logits"][:, prompt:], inputs
