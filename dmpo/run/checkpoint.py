"""Checkpoints of a run: whole or absent, checked when read, safetensors and JSON only.

A folder `step-N` has model/ (or adapter/, with LoRA), optimizer.safetensors, reference.safetensors if the reference
policy is refreshed, rank-R.safetensors of each rank, trainer.json and manifest.json. There is no generator state: all
random numbers are functions of (seed, purpose, step).

A checkpoint is first copied to the host of the main rank, by all ranks together. Its files are then written by the main
rank alone, without communication, so that a thread may write them while training goes on.
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
from .model_copy import ModelCopy, model_name

log = logging.getLogger("dmpo")

ROOM = 1.1  # free space that a checkpoint needs, as a multiple of its expected size


class CheckpointWrite:
    """A checkpoint that `snapshot` has copied and that is not yet written. Only the main rank has one.

    Attributes:
        abandoned: set it to end `write` before its next file, without a checkpoint.
    """

    def __init__(self, aside: Path, final: Path, files: list[Callable[[], None]], keep: int) -> None:
        self.abandoned = False
        self._aside, self._final, self._files, self._keep = aside, final, files, keep

    def write(self) -> bool:
        """Write `step-N` under another name beside it, rename it, and delete what `snapshot` says.

        Returns whether it was written. If the disk is full or fails otherwise, a warning says so; then the new
        checkpoint is removed and the older ones stay.
        """
        try:
            while self._files and not self.abandoned:
                self._files.pop(0)()  # what it has written is free from here on
            if self.abandoned:
                return False
            publish(self._aside, self._final)
        except Exception as error:
            if not is_write_failure(error):
                raise
            shutil.rmtree(self._aside, ignore_errors=True)
            _warn_refused(self._final, str(error))
            return False
        finally:
            self._files.clear()
        _drop_old(self._final, self._keep)
        return True


def snapshot(
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
) -> tuple[bool, CheckpointWrite | None]:
    """Copy all that `root/step-N` will have to the main rank's host; called by every rank.

    `model/` (or `adapter/`) is a checkpoint of its own that `load_model` (or peft) reads. Once the new checkpoint is on
    disk, older ones are deleted, except for the newest `keep` and the best one (`checkpoints.best_step`). So are
    checkpoints of later steps, which a resumed run leaves behind.

    Args:
        model, optimizer: as accelerate prepared them.
        reference: to save its weights, too.
        part: the tensors that this rank needs to continue, on the CPU; nothing may change them later.
        state: the JSON state that all ranks need to continue.

    Returns whether the disk let the checkpoint begin, the same on every rank, and the write on the main rank. If the
    disk refuses, a warning says so.
    """
    final, aside = root / f"step-{step}", root / f"{ASIDE}step-{step}"
    main, world = accelerator.is_main_process, accelerator.num_processes
    policy = extract_model_from_parallel(model, keep_torch_compile=False)
    folder = aside / model_name(model)
    parts: list[dict[str, Tensor]] = gather_object([part])  # small: a few rounds of completions

    def begin() -> None:
        if main:
            root.mkdir(parents=True, exist_ok=True)
            _check_room(root, policy, optimizer, parts)
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()

    def refused(phase: Callable[[], None]) -> bool:
        if texts := refusals(phase):
            if main:
                shutil.rmtree(aside, ignore_errors=True)
                _warn_refused(final, texts[0])
            return True
        return False

    if refused(begin):
        return False, None
    weights, moments = ModelCopy(model, main=main), full_optimizer_state(model, optimizer)
    weights_of_reference = _reference_state(model, reference)
    if refused(lambda: weights.write_small_files(folder, tokenizer) if main else None):
        return False, None
    if not main:
        return True, None

    text = json.dumps({**state, "step": step, "world": world}, indent=1)  # now: the values may change later

    def write_state() -> None:
        (aside / STATE).write_text(text, encoding="utf-8")

    files: list[Callable[[], None]] = [
        partial(weights.write_weights, folder),
        partial(save_file, moments, aside / OPTIMIZER),
    ]
    if weights_of_reference:
        files.append(partial(save_file, weights_of_reference, aside / REFERENCE))
    for rank, tensors in enumerate(parts):
        contiguous = {name: value.contiguous() for name, value in tensors.items()}
        files.append(partial(save_file, contiguous, aside / f"rank-{rank}.safetensors"))
    return True, CheckpointWrite(aside, final, [*files, write_state], keep)


def load_part(path: Path, rank: int) -> dict[str, Tensor]:
    """The `part` that this rank gave to `snapshot`."""
    return load_file(path / f"rank-{rank}.safetensors")


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, reference: ReferencePolicy | None
) -> dict[str, Any]:
    """Restore weights, optimiser and, if it was saved, the reference, in place; returns the state.

    Called by every rank, with the objects that were given to `snapshot`. The number of ranks may differ.

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


def _warn_refused(path: Path, reason: str) -> None:
    log.warning("checkpoint %s could not be written (%s); the older ones stay", path, reason)


def _check_room(root: Path, model: nn.Module, optimizer: torch.optim.Optimizer, parts: list[dict[str, Tensor]]) -> None:
    """Raise OSError unless the disk has room for the checkpoint: better to fail before the disk is full."""
    weights = [p for p in model.parameters() if p.requires_grad or not isinstance(model, PeftModel)]
    moments = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    tensors = [t for part in parts for t in part.values()]
    needed = sum(t.numel() * t.element_size() for t in [*weights, *moments, *tensors])
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
