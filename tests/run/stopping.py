"""A callback that stops a run."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback


class StopsAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **values: Any) -> None:
        control.should_training_stop = state.global_step >= self.step
