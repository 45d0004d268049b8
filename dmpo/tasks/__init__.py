"""Tasks: what a row is, how it becomes a prompt, and how a completion is rewarded and scored. No models here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ..rewards import load_object
from .sudoku import Sudoku4

Row = dict[str, Any]


class Task(Protocol):
    """One task. A row is a dict of columns; `prompt` is the text that the model sees, the others go to the reward."""

    def row(self, split: str, index: int) -> Row:
        """Row `index` of `train`, `validation` or `test`; any index ≥ 0 is valid (finite data wraps around)."""
        ...

    def reward(self, completions: list[str], **columns: list[Any]) -> list[float]:
        """The reward of each completion, for training."""
        ...

    def solved(self, completion: str, row: Row) -> bool:
        """Whether a completion counts as right, for evaluation."""
        ...

    def show(self, completion: str, row: Row) -> str:
        """A completion drawn for a person, with rich markup."""
        ...


TASKS: Mapping[str, type[Task]] = {"sudoku4": Sudoku4}


def load_task(name: str, **options: Any) -> Task:
    """The task of that name, or the user's class named `module:class`.

    Raises:
        ValueError: unknown name or options.
    """
    if name not in TASKS and ":" not in name:
        raise ValueError(f"unknown task {name!r}, choose one of {', '.join(TASKS)}, or name a class as 'module:class'")
    kind = TASKS.get(name) or load_object(name, "task")
    try:
        task: Task = kind(**options)
    except TypeError as error:
        raise ValueError(f"task_options of {name}: {error}") from error
    return task
