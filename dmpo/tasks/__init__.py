"""Tasks: a task makes rows and prompts, reads the answer in a completion, rewards it and judges it. No models here.

A task has one prompt template and one parser. Training and evaluation share them.
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
from .prompts import Prompts
from .row_objects import RowObject as RowObject
from .row_objects import describe_row_object
from .splits import Row
from .sudoku import Sudoku4
from .sudoku9 import Sudoku9


class Task(Protocol):
    """One task. A row is a dict of columns: the model sees the text `prompt`, and the reward gets all columns.

    A row may also have `prompt_messages`: a list of dicts with `role` and `content`. Then the model sees them, through
    its chat template, and `prompt` is for people.

    A task may have five more members. Evaluation uses them where they exist:

    - `template: str`: the prompt, with `{name}` for columns of a row. It is recorded with every result.
    - `parse(completion, row) -> str | None`: the answer in a completion; None if it has none. See `answer_of`.
    - `demonstrate(row) -> str`: a perfect completion of the row, for prompts with examples.
    - `size(split) -> int | None`: the number of different rows of a split; None if the task makes rows without end. See
      `size_of`.
    - `judges: bool`: False if the task cannot say which completions are solved. See `judges`.

    The reward of a task runs in the training process. A reward that may hang must be a function that the config names
    (`reward: module:function`); it runs in worker processes.
    """

    def row(self, split: str, index: int) -> Row:
        """Row `index` of the split `train`, `validation` or `test`. Any index ≥ 0 is valid: finite data repeats."""
        ...

    def reward(self, completions: list[str], **columns: list[Any]) -> list[float]:
        """The reward of each completion, for training."""
        ...

    def solved(self, completion: str, row: Row) -> bool:
        """Whether a completion counts as right, for evaluation."""
        ...

    def show(self, completion: str, row: Row) -> str:
        """A completion drawn for people, with rich markup."""
        ...


TASKS: Mapping[str, type[Task]] = {
    "countdown": Countdown,
    "gsm8k": GSM8K,
    "math": Mathematics,
    "prompts": Prompts,
    "sudoku4": Sudoku4,
    "sudoku9": Sudoku9,
}


def check_task_name(name: str) -> None:
    """Raise ValueError unless `name` is one of `TASKS`, or has the form `module:class`."""
    if name not in TASKS and ":" not in name:
        raise ValueError(
            f"unknown task {name!r}, choose one of {', '.join(TASKS)}, or give your own class as 'module:class'"
        )


def check_task_options(name: str, options: Mapping[str, Any], *, has_reward: bool) -> None:
    """Raise ValueError for `task_options` with which no run can train. No data is read, and no class of a user loaded.

    Args:
        name: of the task.
        options: as the config has them.
        has_reward: whether the config names a reward.
    """
    kind = TASKS.get(name)
    if kind is None:
        return
    _check_options(name, kind, options)
    check: Callable[..., None] | None = getattr(kind, "check_options", None)
    if check is not None:
        check(options, has_reward=has_reward)


def load_task(name: str, **options: Any) -> Task:
    """The task of that name, or an instance of the user's class `module:class`.

    Raises:
        ValueError: the name or an option is unknown, or the data cannot be read.
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
    """Raise ValueError for an option that the task does not have. The message lists the options of the task."""
    try:
        parameters = inspect.signature(kind).parameters.values()
    except (TypeError, ValueError):  # a class of C code, which raises its own error
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for option in options:
        if option not in names:
            near = difflib.get_close_matches(str(option), names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            all_options = f"The options are {', '.join(names)}" if names else "The task has no options"
            raise ValueError(f"task_options of {name}: unknown option {option!r}{hint} {all_options}")


def answer_of(task: Task, completion: str, row: Row) -> str | None:
    """The answer by `task.parse`; the whole completion if the task has no `parse`."""
    parse = getattr(task, "parse", None)
    return parse(completion, row) if parse else completion


def size_of(task: Task, split: str) -> int | None:
    """The number of rows by `task.size`; None if the task has no `size`."""
    size = getattr(task, "size", None)
    return size(split) if size else None


def rows_of_evaluation(task: Task, split: str, wanted: int) -> int:
    """`wanted`, or all rows of a split that has fewer. No row counts twice in an evaluation."""
    size = size_of(task, split)
    return wanted if size is None else min(wanted, size)


def judges(task: Task) -> bool:
    """Whether the task can say which completions are solved, by `task.judges`; True if it has no such member."""
    return bool(getattr(task, "judges", True))


def describe_datasets(**datasets: RowObject | None) -> dict[str, str]:
    """For each object of rows that a script gives: how a resumed run recognises it. Raises as `task_of_run`."""
    return {name: describe_row_object(rows, name) for name, rows in datasets.items() if rows is not None}


def task_of_run(
    task: Task | None,
    name: str,
    options: Mapping[str, Any],
    train_dataset: RowObject | None = None,
    eval_dataset: RowObject | None = None,
) -> Task:
    """The task of a run: a script's object, the task `prompts` of a script's rows, or the task of that name.

    Raises:
        TypeError: an object has no rows that can be read.
        ValueError: the objects, the name and the options do not go together, or as `load_task`.
    """
    datasets = {"train": train_dataset, "test": eval_dataset}
    given = {option: rows for option, rows in datasets.items() if rows is not None}
    if task is not None and given:
        raise ValueError(f"give task, or train_dataset and eval_dataset, not both; got task {type(task).__name__}")
    if not given:
        return task or load_task(name, **options)
    if name != "prompts":
        raise ValueError(f"train_dataset and eval_dataset go with task 'prompts', got task {name!r}; leave task out")
    for option in given:
        if options.get(option) is not None:
            what = {"train": "train_dataset", "test": "eval_dataset"}[option]
            raise ValueError(f"give {what} or task_options {option}, not both, got {options[option]!r}")
    return load_task(name, **options, **given)
