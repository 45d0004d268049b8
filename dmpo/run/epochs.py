"""How often a run passes over the training rows of its task."""

from __future__ import annotations

from ..config.keys import DMPOConfig
from ..tasks import Task, size_of


def prompts_drawn(config: DMPOConfig, steps: int) -> int:
    """The number of prompts that a run has drawn for `steps` gradient steps; all steps of a round share its prompts."""
    return config.num_prompts * -(-steps // config.gradient_steps)


def epochs(config: DMPOConfig, task: Task, steps: int) -> float | None:
    """Prompts drawn, as a multiple of the rows of the train split; None if the task makes rows without end.

    Prompts are drawn with replacement, so one epoch does not show every row once.
    """
    rows = size_of(task, "train")
    return prompts_drawn(config, steps) / rows if rows else None
