"""Checkpoints of a run: whole or absent, checked when read, safetensors and JSON only.

A folder `step-N` has model/ (or adapter/, with LoRA), optimizer.safetensors, reference.safetensors if the reference
policy is refreshed, rank-R.safetensors of each rank, trainer.json and manifest.json. There is no generator state: all
random numbers are functions of (seed, purpose, step).
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import extract_model_from_parallel, gather_object
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..distributed.ranks import together
from ..distributed.sharding import (
    full_model_state,
    full_optimizer_state,
    load_full_model_state,
    load_full_optimizer_state,
)
from ..models.saving import save_model
from ..rollouts.policy import ReferencePolicy
from ..storage.checkpoints import (
    ADAPTER,
    OPTIMIZER,
    REFERENCE,
    STATE,
    best_step,
    list_checkpoints,
    model_files,
    step_of,
)
from ..storage.whole_files import ASIDE, discard, is_write_failure, publish

log = logging.getLogger("dmpo")

ROOM = 1.1  # free space that a checkpoint needs, as a multiple of its expected size


def save_checkpoint(
    accelerator: Accelerator,
    root: Path,
    step: int,
    *,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
    reference: ReferencePolicy | None,
    part: dict[str, Tensor],
    state: dict[str, Any],
    keep: int,
) -> bool:
    """Write `root/step-N` under another name beside it, then rename it; called by every rank.

    `model/` (or `adapter/`) is a checkpoint of its own that `load_model` (or peft) reads. Once the new checkpoint is on
    disk, older ones are deleted, except for the newest `keep` and the best one (`checkpoints.best_step`). So are
    checkpoints of later steps, which a resumed run leaves behind.

    Args:
        model, optimizer: as accelerate prepared them.
        reference: to save its weights, too.
        part: the tensors that this rank needs to continue.
        state: the JSON state that all ranks need to continue.

    Returns whether it was written, the same on every rank. If the disk is full or fails otherwise, a warning says so;
    then the new checkpoint is removed and the older ones stay.
    """
    final, aside = root / f"step-{step}", root / f"{ASIDE}step-{step}"
    main, rank = accelerator.is_main_process, accelerator.process_index
    policy = extract_model_from_parallel(model, keep_torch_compile=False)

    def begin(_: None) -> None:
        if main:
            root.mkdir(parents=True, exist_ok=True)
            _check_room(root, policy, optimizer, part, accelerator.num_processes)
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()

    def write_part(part: dict[str, Tensor]) -> None:
        save_file({name: value.contiguous() for name, value in part.items()}, aside / f"rank-{rank}.safetensors")

    def write_model(weights: dict[str, Tensor]) -> None:
        if main and isinstance(policy, PeftModel):
            # Not "auto": peft would ask the hub for the base's config at each save.
            policy.save_pretrained(str(aside / "adapter"), state_dict=weights, save_embedding_layers=False)
            tokenizer.save_pretrained(str(aside / "adapter"))
        elif main:
            save_model(policy, aside / "model", state=weights)
            tokenizer.save_pretrained(str(aside / "model"))

    def write_optimizer(moments: dict[str, Tensor]) -> None:
        if main:
            save_file(moments, aside / OPTIMIZER)

    def write_reference(weights: dict[str, Tensor]) -> None:
        if main and weights:
            save_file(weights, aside / REFERENCE)

    def finish(_: None) -> None:
        if main:
            for name in (f"rank-{index}.safetensors" for index in range(accelerator.num_processes)):
                if not (aside / name).is_file():  # a network file system may be slow to show it
                    raise OSError(f"{name} is missing, or the main rank does not see it")
            whole = {**state, "step": step, "world": accelerator.num_processes}
            (aside / STATE).write_text(json.dumps(whole, indent=1), encoding="utf-8")
            publish(aside, final)

    # (gather on all ranks, write) for each file, one after the other, so that memory has one file at a time.
    phases: list[tuple[Callable[[], Any], Callable[[Any], None]]] = [
        (lambda: None, begin),
        (lambda: part, write_part),
        (lambda: full_model_state(model), write_model),
        (lambda: full_optimizer_state(model, optimizer), write_optimizer),
        (lambda: _reference_state(model, reference), write_reference),
        (lambda: None, finish),
    ]
    for gather, write in phases:
        if texts := refusals(partial(write, gather())):
            if main:
                shutil.rmtree(aside, ignore_errors=True)
                log.warning("checkpoint %s could not be written (%s); the older ones stay", final, texts[0])
            return False
    if main:
        _drop_old(final, keep)
    return True


def load_part(path: Path, rank: int) -> dict[str, Tensor]:
    """The `part` that this rank gave to `save_checkpoint`."""
    return load_file(path / f"rank-{rank}.safetensors")


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, reference: ReferencePolicy | None
) -> dict[str, Any]:
    """Restore weights, optimiser and, if it was saved, the reference, in place; returns the state.

    Called by every rank, with the objects that were given to `save_checkpoint`. The number of ranks may differ.

    Raises:
        ValueError: the checkpoint is of another model: a tensor is missing, left over or of another shape.
    """
    try:
        if reference is not None:
            load_full_model_state(model, load_file(path / REFERENCE))
            reference.refresh()
        load_full_model_state(model, _read_weights(path, extract_model_from_parallel(model, keep_torch_compile=False)))
        load_full_optimizer_state(model, optimizer, load_file(path / OPTIMIZER))
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"checkpoint {path}: {error}") from error
    state: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
    return state


def refusals(phase: Callable[[], None]) -> list[str]:
    """Run a phase on every rank; returns the OSErrors of all ranks as text. Other errors stop every rank."""

    def attempt() -> str | None:
        try:
            phase()
        except Exception as error:
            if not is_write_failure(error):
                raise
            return str(error)
        return None

    return [text for text in gather_object([together(attempt)]) if text is not None]


def _reference_state(model: nn.Module, reference: ReferencePolicy | None) -> dict[str, Tensor]:
    if reference is None:
        return {}
    with reference.swapped_in():
        return full_model_state(model)


def _read_weights(path: Path, policy: nn.Module) -> dict[str, Tensor]:
    """Saved weights by the name of their parameter."""
    if not isinstance(policy, PeftModel):
        return {name: value for file in model_files(path) for name, value in load_file(file).items()}
    names = {name.replace(".default.", "."): name for name, p in policy.named_parameters() if p.requires_grad}
    return {names.get(key, key): value for key, value in load_file(path / ADAPTER).items()}


def _check_room(
    root: Path, model: nn.Module, optimizer: torch.optim.Optimizer, part: dict[str, Tensor], world: int
) -> None:
    """Raise OSError unless the disk has room for the checkpoint: better to fail before the disk is full."""
    weights = [p for p in model.parameters() if p.requires_grad or not isinstance(model, PeftModel)]
    moments = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    needed = sum(t.numel() * t.element_size() for t in [*weights, *moments, *world * list(part.values())])
    free = shutil.disk_usage(root).free
    if free < ROOM * needed:
        raise OSError(f"it needs about {ROOM * needed / 1e9:.3f} GB, but only {free / 1e9:.3f} GB are free")


def _drop_old(newest: Path, keep: int) -> None:
    checkpoints = list_checkpoints(newest.parent)
    here = checkpoints.index(newest)
    best = best_step(newest.parent.parent, map(step_of, checkpoints[: here + 1]))
    old = [path for path in checkpoints[: max(0, here + 1 - keep)] if step_of(path) != best]
    for path in [*checkpoints[here + 1 :], *old]:
        discard(path)
