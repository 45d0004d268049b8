"""The trained model on the host of the main rank, and how it is written: as a plain checkpoint, or as an adapter."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from accelerate.utils import extract_model_from_parallel
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..distributed.ranks import together
from ..distributed.sharding import full_model_state
from ..models.saving import save_model
from ..storage.whole_files import ASIDE, share

_ADAPTER_WEIGHTS = "adapter_model.safetensors"


class ModelCopy:
    """A copy of the trained weights, whole and on the CPU. All ranks make it together; only the main rank writes it.

    Args:
        model: the result of `accelerator.prepare`.
        main: whether this is the main rank.

    Attributes:
        name: "adapter" for a model with LoRA, whose adapter alone is trained; else "model".
    """

    def __init__(self, model: nn.Module, *, main: bool) -> None:
        self._policy = extract_model_from_parallel(model, keep_torch_compile=False)
        self.name = model_name(model)
        self._weights: dict[str, Tensor] = full_model_state(model)
        if main and isinstance(self._policy, PeftModel):
            # Not "auto": peft would ask the hub for the base's config at each save.
            self._weights = get_peft_model_state_dict(
                self._policy, state_dict=self._weights, save_embedding_layers=False
            )

    def write_small_files(self, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        """Write what the libraries write from live objects: the tokenizer, and of an adapter its config.

        Not for a thread, because peft changes its config for it.
        """
        if isinstance(self._policy, PeftModel):
            empty = {name: torch.empty(0) for name in self._weights}  # `write_weights` replaces them
            self._policy.save_pretrained(str(folder), state_dict=empty, save_embedding_layers=False)
        tokenizer.save_pretrained(str(folder))

    def write_weights(self, folder: Path) -> None:
        """Write the weights, and of a plain checkpoint the config."""
        if self.name == "adapter":
            contiguous = {name: value.contiguous() for name, value in self._weights.items()}
            save_file(contiguous, folder / _ADAPTER_WEIGHTS, metadata={"format": "pt"})
            share([folder / _ADAPTER_WEIGHTS], folder / "adapter_config.json")
        else:
            save_model(self._policy, folder, state=self._weights)


def model_name(model: nn.Module) -> str:
    """The name of a folder for what is trained of a model: "adapter" or "model"."""
    policy = extract_model_from_parallel(model, keep_torch_compile=False)
    return "adapter" if isinstance(policy, PeftModel) else "model"


def write_model(model: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path, *, main: bool) -> None:
    """Write the trained model as a plain checkpoint or as an adapter, with the tokenizer. All ranks call it together.

    `folder` is whole or absent. A model or an adapter that it held is replaced.

    Raises:
        ValueError: the folder has other files.
        OSError: it cannot be written.
    """

    def check() -> None:
        if main and folder.exists() and not _may_be_replaced(folder):
            raise ValueError(f"the folder of a saved model must be new, or hold a saved model, got {folder}")

    together(check)
    copied = ModelCopy(model, main=main)

    def write() -> None:
        if not main:
            return
        aside = folder.with_name(f"{ASIDE}{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            copied.write_small_files(aside, tokenizer)
            copied.write_weights(aside)
            if folder.exists():
                shutil.rmtree(folder)
            aside.rename(folder)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise

    together(write)


def _may_be_replaced(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    has_model = bool(names & {"config.json", "adapter_config.json"})
    # A folder of something else may hold a model, too: only files of a saved model are deleted.
    return not names or (has_model and all((folder / name).is_file() for name in names))
