"""Save and restore a run, and retry the last checkpoint if the disk refuses it."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..config.keys import DMPOConfig
from ..rollouts.buffer import ReplayBuffer
from ..rollouts.policy import ReferencePolicy
from .checkpoint import load_checkpoint, load_part, refusals, save_checkpoint
from .folder import RunFolder
from .skipping import SkippedSteps

log = logging.getLogger("dmpo")

PATIENCE, PAUSE = 600.0, 30.0  # seconds: how long, and how often, the last checkpoint of a run is retried


class Saver:
    """Saves the state of a run into its folder, and restores it.

    Args:
        model, optimizer: the results of `accelerator.prepare`.
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
        reference: ReferencePolicy,
        buffer: ReplayBuffer,
        skipped: SkippedSteps,
        config: DMPOConfig,
        origin: str | None,
    ) -> None:
        self.accelerator, self.run, self.keep = accelerator, run, config.save_total_limit
        self.model, self.optimizer, self.tokenizer = model, optimizer, tokenizer
        self.buffer, self.skipped, self.origin = buffer, skipped, origin
        # A reference that is never refreshed is not saved: the model of the config gives it at any time.
        self.reference = reference if config.reference_refresh_steps else None
        self.saved = 0  # the step of the newest checkpoint; 0 if no step could be lost

    def save(self, step: int, state: dict[str, Any]) -> bool:
        """Save the run after `step`, unless it is saved already. Returns whether it is saved. Every rank calls this.

        If the disk refuses, a warning is logged. While steps are being skipped, older checkpoints stay, because the
        newest weights may be the reason.

        Args:
            state: JSON values.
        """
        if step == self.saved:
            return True
        tensors, values = self.buffer.state()
        with self.run.clock("checkpoint"):
            if texts := refusals(self.run.sync):  # a checkpoint needs the lines up to its step
                log.warning("no checkpoint of step %d: its metrics could not be written (%s)", step, texts[0])
                return False
            written = save_checkpoint(
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
        if written:
            self.saved = step
        return written

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
