"""Saving masked diffusion language models as safetensors, in transformers' layout or in LLaDA's own."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor, nn

from ..storage.whole_files import share
from .llada_layout import llada_config_from_llama, llama_to_llada_name
from .masked_lm import MaskedLlama, unwrap
from .model_config import config_json


def save_model(
    model: nn.Module,
    folder: str | Path,
    layout: Literal["transformers", "llada"] = "transformers",
    *,
    max_shard_size: int | str = "5GB",
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the model as safetensors and config.json; `load_model` gives it back bit-equal.

    Args:
        layout: "transformers" (every model; Llama and Qwen types then load in transformers itself, bidirectional, and
            iLLaDA, SDAR and Dream get the names and config fields of their own checkpoints), or "llada" (Llama types:
            the key names and config fields of the official LLaDA checkpoints).
        max_shard_size: of one file, in bytes or as "5GB"; more is split over several. Weight files that the folder
            held before are removed.
        state: its weights by name, where the model's own are spread over ranks; None for the model's own.

    A head that is tied to the embedding by name and differs from it is kept; the config then says that it is not tied.

    Raises:
        ValueError: unknown layout, a model that the layout cannot express or that is quantised, adapters not merged.
    """
    inner = unwrap(model)
    state = dict(inner.state_dict() if state is None else state)
    if getattr(inner, "is_loaded_in_4bit", False):
        raise ValueError("model was loaded in 4 bits, which no layout stores: save the adapter alone and merge it")
    if any("lora_" in name or ".base_layer." in name or ".modules_to_save." in name for name in state):
        raise ValueError("model carries adapters: merge them first (merge_and_unload), or save the adapter alone")
    config: Any = copy.deepcopy(inner.config)
    if config.tie_word_embeddings and "lm_head.weight" in state:
        head = state["lm_head.weight"]
        config.tie_word_embeddings = torch.equal(head, state.get("model.embed_tokens.weight", head))
        if config.tie_word_embeddings:
            state.pop("lm_head.weight")
    if layout == "llada":
        if not isinstance(inner, MaskedLlama):
            raise ValueError(f"layout 'llada' needs a Llama-type model, got {type(inner).__name__}")
        fields = json.dumps(llada_config_from_llama(config), indent=2)
        state = {llama_to_llada_name(name): weight for name, weight in state.items()}
    elif layout == "transformers":
        config.architectures, config.dtype = [inner.official_architecture], inner.dtype
        fields = config_json(config)
    else:
        raise ValueError(f"layout must be 'transformers' or 'llada', got {layout!r}")
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "config.json").write_text(fields.rstrip() + "\n", encoding="utf-8")
    save_torch_state_dict(state, folder, max_shard_size=max_shard_size)
    share(Path(folder).glob("*.safetensors"), Path(folder) / "config.json")
