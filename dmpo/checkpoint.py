"""Checkpoints of a run: whole or absent, checked when read, safetensors and JSON only."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from .models import load_model, save_model

log = logging.getLogger("dmpo")

STATE, OPTIMIZER, MANIFEST = "trainer.json", "optimizer.safetensors", "manifest.json"


def save_checkpoint(
    accelerator: Accelerator,
    root: Path,
    step: int,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
    part: dict[str, Tensor],
    state: dict[str, Any],
    keep: int,
) -> None:
    """Write `root/step-N` beside its final place and rename it there; called by every rank.

    `model/` (or `adapter/`, with LoRA) is a checkpoint of its own that `load_model` (or peft) reads. `part` is what
    this rank needs to go on, `state` what all of them do, as JSON. All but the newest `keep` checkpoints are dropped,
    and those of later steps, which a resumed run has passed over.
    """
    partial = root / f".partial-{step}"
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    rank = accelerator.process_index
    save_file({name: tensor.contiguous() for name, tensor in part.items()}, partial / f"rank-{rank}.safetensors")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        state = state | {"step": step, "world": accelerator.num_processes}
        _finish(partial, root / f"step-{step}", model, tokenizer, optimizer, state, keep)
    accelerator.wait_for_everyone()


def load_part(path: Path, rank: int) -> dict[str, Tensor]:
    """What that rank handed to `save_checkpoint` as its part."""
    return load_file(path / f"rank-{rank}.safetensors")


def _finish(
    partial: Path,
    final: Path,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    keep: int,
) -> None:
    """Add weights, optimiser, state and checksums, and put the folder in its place."""
    root = final.parent
    if isinstance(model, PeftModel):
        adapter = partial / "adapter"
        model.save_pretrained(str(adapter))
        tokenizer.save_pretrained(str(adapter))
    else:
        save_model(model, partial / "model")
        tokenizer.save_pretrained(str(partial / "model"))
    tensors, values = _flatten_optimizer(model, optimizer)
    save_file(tensors, partial / OPTIMIZER)
    (partial / STATE).write_text(json.dumps({**state, "optimizer": values}, indent=1))
    files = sorted(p for p in partial.rglob("*") if p.is_file())
    manifest = {str(p.relative_to(partial)): _digest(p) for p in files}
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in [*files, partial / MANIFEST, partial]:
        _sync(path)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _sync(root)
    found = list_checkpoints(root)
    here = found.index(final)
    for old in [*found[here + 1 :], *found[: max(0, here + 1 - keep)]]:
        shutil.rmtree(old)


def list_checkpoints(root: Path) -> list[Path]:
    """Folders `step-N` below root, oldest first."""
    found = [p for p in root.glob("step-*") if p.name.removeprefix("step-").isdigit()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def newest_checkpoint(root: Path) -> Path | None:
    """The newest checkpoint that is whole; damaged ones are named in a warning and passed over."""
    for path in reversed(list_checkpoints(root)):
        problem = _damage(path)
        if problem is None:
            return path
        log.warning("checkpoint %s is damaged (%s), trying an older one", path, problem)
    return None


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore weights and optimiser in place; returns the trainer's state."""
    if isinstance(model, PeftModel):
        set_peft_model_state_dict(model, load_file(path / "adapter" / "adapter_model.safetensors"))
    else:
        saved = load_model(path / "model", dtype=next(model.parameters()).dtype)
        model.load_state_dict(saved.state_dict())
    state: dict[str, Any] = json.loads((path / STATE).read_text())
    _restore_optimizer(model, optimizer, load_file(path / OPTIMIZER), state.pop("optimizer"))
    return state


def _named_trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def _flatten_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Optimiser state by parameter name: tensors, and plain values."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for name, parameter in _named_trainable(model):
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{name}.{key}"] = value.detach().cpu().contiguous()
            else:
                values[f"{name}.{key}"] = value
    return tensors, values


def _restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], values: dict[str, Any]
) -> None:
    for name, parameter in _named_trainable(model):
        prefix = f"optimizer.{name}."
        state: dict[str, Any] = {
            k.removeprefix(prefix): v.to(parameter.device if v.dim() else "cpu")
            for k, v in tensors.items()
            if k.startswith(prefix) and "." not in k.removeprefix(prefix)
        }
        state |= {k.removeprefix(f"{name}."): v for k, v in values.items() if k.startswith(f"{name}.")}
        if state:
            optimizer.state[parameter] = state


def _damage(path: Path) -> str | None:
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        for name, digest in manifest.items():
            if _digest(path / name) != digest:
                return f"{name} has changed or is cut short"
    except (OSError, ValueError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _digest(path: Path) -> str:
    digest = hashlib.blake2b()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
