"""Checkpoints of a run: whole or absent, checked when read, safetensors and JSON only.

A folder `step-N` holds model/ (or adapter/, with LoRA), optimizer.safetensors, rank-R.safetensors of each rank,
trainer.json and manifest.json. There is no generator state: all that is random is a function of (seed, purpose, step).
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from .models import save_model, unwrap
from .parallel import together
from .whole_files import ASIDE, damage, discard, is_write_failure, publish

log = logging.getLogger("dmpo")

STATE, OPTIMIZER = "trainer.json", "optimizer.safetensors"
ADAPTER = "adapter/adapter_model.safetensors"
ROOM = 1.1  # free space wanted, as a multiple of what a checkpoint is expected to take


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
) -> bool:
    """Write `root/step-N` beside its final place and rename it there; called by every rank.

    `model/` (or `adapter/`) is a checkpoint of its own that `load_model` (or peft) reads. `part` is what this rank
    needs to go on, `state` what all of them do, as JSON. Once the new one is safely on disk, all but the newest `keep`
    are dropped, and those of later steps, which a resumed run has passed over.

    Returns whether it was written, the same on every rank. Where the disk is full or refuses otherwise, a warning says
    so, nothing of the new one is left and no older one is touched.
    """
    final, partial = root / f"step-{step}", root / f"{ASIDE}step-{step}"
    main, rank = accelerator.is_main_process, accelerator.process_index

    def begin() -> None:
        if main:
            root.mkdir(parents=True, exist_ok=True)
            _check_room(root, model, optimizer, part, accelerator.num_processes)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()

    def write_part() -> None:
        save_file({name: value.contiguous() for name, value in part.items()}, partial / f"rank-{rank}.safetensors")

    def finish() -> None:
        if main:
            _write_model(partial, model, tokenizer)
            tensors, values = _flatten_optimizer(model, optimizer)
            save_file(tensors, partial / OPTIMIZER)
            whole = {**state, "step": step, "world": accelerator.num_processes, "optimizer": values}
            (partial / STATE).write_text(json.dumps(whole, indent=1), encoding="utf-8")
            publish(partial, final)

    for phase in (begin, write_part, finish):
        if texts := refusals(phase):
            if main:
                shutil.rmtree(partial, ignore_errors=True)
                log.warning("checkpoint %s could not be written (%s); the older ones stay", final, texts[0])
            return False
    if main:
        _drop_old(final, keep)
    return True


def list_checkpoints(root: Path) -> list[Path]:
    """Folders `step-N` below root, oldest first."""
    found = [path for path in root.glob("step-*") if path.name.removeprefix("step-").isdecimal()]
    return sorted(found, key=_step)


def newest_checkpoint(root: Path) -> Path | None:
    """The newest checkpoint that is whole; damaged ones are named in a warning and passed over."""
    for path in reversed(list_checkpoints(root)):
        problem = checkpoint_damage(path)
        if problem is None:
            return path
        log.warning("checkpoint %s is damaged (%s), trying an older one", path, problem)
    return None


def checkpoint_damage(path: Path) -> str | None:
    """What keeps a checkpoint from being resumed from, or None: see `whole_files.damage`."""
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        step, ranks = state["step"], [f"rank-{rank}.safetensors" for rank in range(state["world"])]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{STATE} cannot be read: {type(error).__name__}: {error}"
    if step != _step(path):
        return f"{STATE} is of step {step}"
    weights = [ADAPTER] if (path / "adapter").is_dir() else [f"model/{file.name}" for file in _model_files(path)]
    return damage(path, [STATE, OPTIMIZER, *ranks, *weights])


def load_part(path: Path, rank: int) -> dict[str, Tensor]:
    """What that rank handed to `save_checkpoint` as its part."""
    return load_file(path / f"rank-{rank}.safetensors")


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore weights and optimiser in place; returns the trainer's state.

    Raises:
        ValueError: the checkpoint is of another model: a tensor of it is missing, left over or of another shape.
    """
    if isinstance(model, PeftModel):
        adapter = load_file(path / ADAPTER) if (path / ADAPTER).is_file() else {}
        _check_fit(path, adapter, get_peft_model_state_dict(model))
        set_peft_model_state_dict(model, adapter)
    else:
        weights = {name: value for file in _model_files(path) for name, value in load_file(file).items()}
        inner = unwrap(model)
        wanted = dict(inner.state_dict())
        if inner.config.tie_word_embeddings:
            del wanted["lm_head.weight"]
        _check_fit(path, weights, wanted)
        inner.load_state_dict(weights, strict=False)
    state: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
    _restore_optimizer(path, model, optimizer, load_file(path / OPTIMIZER), state.pop("optimizer"))
    return state


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _model_files(path: Path) -> list[Path]:
    return sorted((path / "model").glob("*.safetensors"))


def refusals(phase: Callable[[], None]) -> list[str]:
    """Run a phase on every rank; what the system refused to write, of all ranks. Other errors stop every rank."""

    def attempt() -> str | None:
        try:
            phase()
        except Exception as error:
            if not is_write_failure(error):
                raise
            return str(error)
        return None

    return [text for text in gather_object([together(attempt)]) if text is not None]


def _write_model(partial: Path, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
    if isinstance(model, PeftModel):
        model.save_pretrained(str(partial / "adapter"), save_embedding_layers=False)  # "auto" would ask the Hub
        tokenizer.save_pretrained(str(partial / "adapter"))
    else:
        save_model(model, partial / "model")
        tokenizer.save_pretrained(str(partial / "model"))


def _check_room(
    root: Path, model: nn.Module, optimizer: torch.optim.Optimizer, part: dict[str, Tensor], world: int
) -> None:
    """Raise OSError unless the disk has room for what is about to be written, so that it is not filled in vain."""
    weights = [p for p in model.parameters() if p.requires_grad or not isinstance(model, PeftModel)]
    moments = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    needed = sum(t.numel() * t.element_size() for t in [*weights, *moments, *world * list(part.values())])
    free = shutil.disk_usage(root).free
    if free < ROOM * needed:
        raise OSError(f"it needs about {ROOM * needed / 1e9:.3f} GB, and {free / 1e9:.3f} GB are free")


def _drop_old(newest: Path, keep: int) -> None:
    found = list_checkpoints(newest.parent)
    here = found.index(newest)
    for path in [*found[here + 1 :], *found[: max(0, here + 1 - keep)]]:
        discard(path)


def _check_fit(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for name in sorted(found.keys() | wanted.keys()):
        there = tuple(found[name].shape) if name in found else "absent"
        here = tuple(wanted[name].shape) if name in wanted else "absent"
        if there != here:
            raise ValueError(f"checkpoint {path} is of another model: {name} is {there} there and {here} here")


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
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], values: dict[str, Any]
) -> None:
    """Give each trainable parameter its state back: all of them have one, or, before the first step, none."""
    if not tensors:
        return
    states: dict[str, dict[str, Any]] = {}
    for full, value in [*tensors.items(), *((f"optimizer.{key}", value) for key, value in values.items())]:
        name, _, key = full.removeprefix("optimizer.").rpartition(".")
        states.setdefault(name, {})[key] = value
    parameters = dict(_named_trainable(model))
    for name in sorted(states.keys() | parameters.keys()):
        if name not in states or name not in parameters:
            where = "no trainable parameter here" if name in states else "no optimiser state there"
            raise ValueError(f"checkpoint {path} is of another model: {name} has {where}")
        for key, value in states[name].items():
            if isinstance(value, Tensor) and value.dim():
                if value.shape != parameters[name].shape:
                    shapes = f"{tuple(value.shape)}, its parameter {tuple(parameters[name].shape)}"
                    raise ValueError(f"checkpoint {path} is of another model: {key} of {name} has shape {shapes}")
                states[name][key] = value.to(parameters[name].device)
        optimizer.state[parameters[name]] = states[name]
