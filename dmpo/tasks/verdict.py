"""What a task says of one completion, whatever the completion is."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from ..rewards.outcomes import failures
from . import Task, answer_of, judges
from .splits import Row

log = logging.getLogger("dmpo")


class Verdict(NamedTuple):
    """What a task says of a completion. solved: None where the task cannot say it (`dmpo.tasks.judges`).

    failure: `timeout` or `crash` where the comparison of its answer with the right one came to no end, `exception`
    where the task itself raised; it counts as not solved. message: of an exception.
    """

    solved: bool | None
    answer: str | None
    failure: str | None = None
    message: str = ""


def check_judges(name: str, task: Task) -> None:
    """Raise ValueError if the task cannot say which completions are solved, so that there is no accuracy."""
    if not judges(task):
        raise ValueError(
            f"task {name} cannot say which completions are solved, so there is no accuracy: give the task_options of "
            "the task answer: COLUMN, or solved: module:function"
        )


def judge(task: Task, completion: str, row: Row) -> Verdict:
    """What a completion answers and whether that is right, or why neither can be said."""
    try:
        with failures() as failed:
            solved = bool(task.solved(completion, row)) if judges(task) else None
        answer = answer_of(task, completion, row)
    except Exception as error:  # one text must not end the evaluation
        return Verdict(False, None, "exception", f"{type(error).__name__}: {error}"[:500])
    return Verdict(solved, answer, failed[0].kind if failed else None)


def log_exceptions(task: Task, verdicts: Sequence[Verdict]) -> None:
    """Log, in one line, how many completions a task raised on, if there are any."""
    raised = [verdict.message for verdict in verdicts if verdict.failure == "exception"]
    if raised:
        log.warning(
            "task %s raised on %d of %d completions, which count as wrong; the first: %s",
            *(type(task).__name__, len(raised), len(verdicts), raised[0]),
        )
