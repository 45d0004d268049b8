"""What a task says of one completion, whatever the completion is."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from ..rewards.mathematics import failures
from . import Task, answer_of
from .splits import Row

log = logging.getLogger("dmpo")


class Verdict(NamedTuple):
    """What a task says of a completion. failure: `timeout` or `crash` where the comparison of its answer with the right
    one came to no end, `exception` where the task itself raised; it counts as not solved. message: of an exception."""

    solved: bool
    answer: str | None
    failure: str | None = None
    message: str = ""


def judge(task: Task, completion: str, row: Row) -> Verdict:
    """What a completion answers and whether it is right, or what kept that from being found out."""
    try:
        with failures() as found:
            solved = bool(task.solved(completion, row))
        answer = answer_of(task, completion, row)
    except Exception as error:  # whatever a task makes of one text, the evaluation goes on
        return Verdict(False, None, "exception", f"{type(error).__name__}: {error}"[:500])
    return Verdict(solved, answer, found[0].kind if found else None)


def tell_exceptions(task: Task, verdicts: Sequence[Verdict]) -> None:
    """One line of the log on the completions that a task raised on, if it did on any."""
    raised = [verdict.message for verdict in verdicts if verdict.failure == "exception"]
    if raised:
        log.warning(
            "task %s raised on %d of %d completions, which count as wrong; the first: %s",
            *(type(task).__name__, len(raised), len(verdicts), raised[0]),
        )
