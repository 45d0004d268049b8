"""Tasks: what a row is, how it becomes a prompt, and how a completion is read, rewarded and scored. No models here.

A task has one prompt template and one parser, which training and evaluation share.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ..rewards import load_object
from .countdown import Countdown
from .gsm8k import GSM8K
from .mathematics import Mathematics
from .splits import Row
from .sudoku import Sudoku4
from .sudoku9 import Sudoku9


class Task(Protocol):
    """One task. A row is a dict of columns; `prompt` is the text that the model sees, the others go to the reward.

    The four methods up to `show` are what training asks for. A user's task may lack the rest: `answer_of` and `size_of`
    then do without. Its reward runs in the training process; one that may hang belongs into a function that the config
    names (`reward: module:function`), which gets processes of its own.

    Attributes:
        template: the prompt, with `{name}` for columns of a row; recorded with every result.
    """

    template: str

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

    def parse(self, completion: str, row: Row) -> str | None:
        """The answer as it is read from a completion, None where there is none."""
        ...

    def demonstrate(self, row: Row) -> str:
        """A completion that is perfect for the row, for prompts with examples."""
        ...

    def size(self, split: str) -> int | None:
        """Number of different rows of a split; None where rows are made without end."""
        ...


TASKS: Mapping[str, type[Task]] = {
    "countdown": Countdown,
    "gsm8k": GSM8K,
    "math": Mathematics,
    "sudoku4": Sudoku4,
    "sudoku9": Sudoku9,
}


def check_task_name(name: str) -> None:
    """Raise ValueError unless `name` is one of `TASKS`, or has the form `module:class`."""
    if name not in TASKS and ":" not in name:
        raise ValueError(f"unknown task {name!r}, choose one of {', '.join(TASKS)}, or name a class as 'module:class'")


def load_task(name: str, **options: Any) -> Task:
    """The task of that name, or the user's class named `module:class`.

    Raises:
        ValueError: unknown name or options, or data that cannot be read.
    """
    check_task_name(name)
    kind = TASKS.get(name) or load_object(name, "task")
    _check_options(name, kind, options)
    try:
        task: Task = kind(**options)
    except TypeError as error:
        raise ValueError(f"task_options of {name}: {error}") from error
    return task


def scoring_task(name: str, **options: Any) -> Task:
    """A task that parses and scores completions. Without options, no data is loaded, and a task of a data set has no
    rows.

    Raises:
        ValueError: as `load_task`.
    """
    without_data = None if options else getattr(TASKS.get(name), "scoring_only", None)
    return without_data() if without_data else load_task(name, **options)


def _check_options(name: str, kind: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise ValueError for an option that the task does not take, with the nearest one and all that there are."""
    try:
        parameters = inspect.signature(kind).parameters.values()
    except (TypeError, ValueError):  # a class of C code, whose own error must do
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(str(option), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            there_are = f"The options are {', '.join(known)}" if known else "The task has no options"
            raise ValueError(f"task_options of {name}: unknown option {option!r}{hint} {there_are}")


def answer_of(task: Task, completion: str, row: Row) -> str | None:
    """`task.parse`, or the completion itself for a task without one."""
    parse = getattr(task, "parse", None)
    return parse(completion, row) if parse else completion


def size_of(task: Task, split: str) -> int | None:
    """`task.size`, or None for a task without one."""
    size = getattr(task, "size", None)
    return size(split) if size else None
