"""How often a run passes over the training rows of its task."""

from __future__ import annotations

from ..config.run import RunConfig
from ..tasks import Task, size_of


def epochs(config: RunConfig, task: Task, steps: int) -> float | None:
    """Rows drawn, as a multiple of the rows of the train split; None if the task makes rows without end.

    A run of DMPO draws prompts with replacement, so one epoch does not show every row once.
    """
    rows = size_of(task, "train")
    return config.rows_drawn(steps) / rows if rows else None
