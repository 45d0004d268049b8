"""Save and restore a run: a thread writes its checkpoints; the last one is retried if the disk refuses it."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future, wait
from types import TracebackType
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..config.run import RunConfig
from ..distributed.ranks import from_main
from ..rollouts.policy import ReferencePolicy
from ..storage.background import BackgroundThread
from .checkpoint import CheckpointWrite, load_checkpoint, load_part, refusals, snapshot
from .folder import RunFolder
from .skipping import SkippedSteps

log = logging.getLogger("dmpo")

PATIENCE, PAUSE = 600.0, 30.0  # seconds: how long, and how often, the last checkpoint of a run is retried
GRACE = 5.0  # seconds that an interrupted process waits for the file that is being written


class Kept(Protocol):
    """What a run needs to continue beside weights and optimiser, such as `ReplayBuffer`."""

    def state(self) -> tuple[dict[str, Tensor], Any]:
        """Tensors of this rank, on the CPU, and JSON values."""
        ...

    def load_state(
        self, parts: list[dict[str, Tensor]], values: Any, *, rank: int, world: int, device: torch.device
    ) -> None:
        """The inverse of `state`, from the tensors of all ranks."""
        ...


class Saver:
    """Saves the state of a run into its folder, and restores it. As a context it does not leave a write behind.

    Args:
        model, optimizer: the results of `accelerator.prepare`.
        reference: to save its weights, too.
        buffer: what the run keeps besides; None: nothing.
        config: the config of the run.
        origin: the fingerprint (see `preflight`) of the model with which the run began.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        run: RunFolder,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        tokenizer: PreTrainedTokenizerBase,
        reference: ReferencePolicy | None,
        buffer: Kept | None,
        skipped: SkippedSteps,
        config: RunConfig,
        origin: str | None,
    ) -> None:
        self.accelerator, self.run, self.keep = accelerator, run, config.save_total_limit
        self.model, self.optimizer, self.tokenizer = model, optimizer, tokenizer
        self.buffer, self.skipped, self.origin = buffer, skipped, origin
        self.reference = reference
        self.saved = 0  # the step of the newest checkpoint on disk; 0 if no step could be lost
        self._thread = BackgroundThread("checkpoint")
        self._written_step: int | None = None  # the step that is being written, on every rank
        self._write: CheckpointWrite | None = None  # on the main rank, and its result:
        self._result: Future[bool] | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Wait for the write, without the other ranks, which may be elsewhere when a run fails."""
        if self._result is None or self._write is None:
            return
        at_once = kind is not None and issubclass(kind, KeyboardInterrupt)
        self._write.abandoned = at_once
        wait([self._result], GRACE if at_once else None)
        if self._result.done() and (failure := self._result.exception()):
            log.error("checkpoint of step %d: %s: %s", self._written_step, type(failure).__name__, failure)

    def save(self, step: int, state: dict[str, Any]) -> bool:
        """Save the run after `step`, unless it is saved already. Returns whether it is saved. Every rank calls this.

        If the disk refuses, a warning is logged. While steps are being skipped, older checkpoints stay, because the
        newest weights may be the reason.

        Args:
            state: JSON values.
        """
        self.begin(step, state)
        self.finish()
        return step == self.saved

    def begin(self, step: int, state: dict[str, Any]) -> None:
        """As `save`, but return as soon as everything is copied: a thread of the main rank writes the files.

        The checkpoint before is finished first, so that the host has one copy at a time.
        """
        self.finish()
        if step == self.saved:
            return
        tensors, values = self.buffer.state() if self.buffer is not None else ({}, None)
        with self.run.clock("checkpoint"):
            if texts := refusals(self.run.sync):  # a checkpoint needs the lines up to its step
                log.warning("no checkpoint of step %d: its metrics could not be written (%s)", step, texts[0])
                return
            begun, write = snapshot(
                self.accelerator,
                self.run.checkpoints,
                step,
                model=self.model,
                tokenizer=self.tokenizer,
                optimizer=self.optimizer,
                reference=self.reference,
                part=tensors,
                state={**state, "origin": self.origin, "buffer": values, "skipped": self.skipped.state()},
                keep=step + 1 if self.skipped.in_row else self.keep,
            )
        self._written_step = step if begun else None
        if write is not None:
            self._write, self._result = write, self._thread.submit(write.write)

    def finish(self) -> None:
        """Wait until the thread has written; every rank calls this, and learns whether the checkpoint is on disk.

        Raises:
            Exception: the write failed, and not because of the disk.
        """
        if self._written_step is None:
            return
        step, result = self._written_step, self._result
        self._written_step = self._write = self._result = None
        with self.run.clock("checkpoint"):
            if from_main(self.accelerator, lambda: result is not None and result.result()):
                self.saved = step

    def save_last(self, step: int, state: dict[str, Any]) -> None:
        """Save the last step of the run. While the disk refuses, try again, so that the user can free disk space.

        Raises:
            OSError: the disk refused for PATIENCE seconds.
        """
        deadline = time.monotonic() + PATIENCE
        while not self.save(step, state):
            if any(gather_object([time.monotonic() > deadline])):
                raise OSError(f"the run is done, but step {step} cannot be saved in {self.run.checkpoints}")
            log.warning("the run is done, but not saved; free disk space: the next try is in %.0f s", PAUSE)
            time.sleep(PAUSE)

    def load(self) -> dict[str, Any]:
        """Restore the run from the checkpoint of its folder. Returns the state that `save` got, and `step`.

        Raises:
            ValueError: the checkpoint does not fit the model, or the saved run began with other weights than this run.
        """
        path = self.run.checkpoint
        assert path is not None
        state = load_checkpoint(path, self.model, self.optimizer, self.reference)
        if self.origin and state["origin"] not in (None, self.origin):
            raise ValueError(
                f"checkpoint {path}: the run began with other weights than config key 'model' gives now; give the "
                "model with which the run began"
            )
        if self.buffer is not None:
            self.buffer.load_state(
                [load_part(path, rank) for rank in range(state["world"])],
                state["buffer"],
                rank=self.accelerator.process_index,
                world=self.accelerator.num_processes,
                device=self.accelerator.device,
            )
        self.skipped.load_state(state["skipped"])
        self.saved = state["step"]
        return state
