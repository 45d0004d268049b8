"""What calls of rewards come to: values for completions, and the failures on some of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Columns = dict[str, list[Any]]


class Failure(NamedTuple):
    """A completion on which a reward failed.

    row: the index of the completion. kind: `timeout`, `crash` (the process ended), `exception`, or `missing` (no reward
        applies to the completion). message: a text for people, of at most 500 characters. reward: the name of the
        reward, where it is known.
    """

    row: int
    kind: str
    message: str
    reward: str = ""


@dataclass(frozen=True)
class Scores:
    """One value for each completion, and the completions on which a reward failed.

    parts: of several rewards, the values of each by its name, before they are weighted and summed. NaN: the reward does
        not apply to the completion.
    """

    values: list[float]
    failures: list[Failure] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)

    def extended(self, other: Scores) -> Scores:
        """The scores of these completions and of others after them."""
        offset = len(self.values)
        later = [failure._replace(row=failure.row + offset) for failure in other.failures]
        parts = {name: self.parts.get(name, []) + values for name, values in other.parts.items()}
        return Scores(self.values + other.values, self.failures + later, parts)

    def reordered(self, rows: Sequence[int]) -> Scores:
        """The scores with completion i in place rows[i], which are all places from 0."""
        places = sorted(range(len(rows)), key=rows.__getitem__)
        return Scores(
            [self.values[i] for i in places],
            sorted(failure._replace(row=rows[failure.row]) for failure in self.failures),
            {name: [values[i] for i in places] for name, values in self.parts.items()},
        )

    def details(self, row: int) -> dict[str, Any]:
        """What completions.jsonl says of a completion besides its reward.

        `rewards`: the value of each of several rewards that apply to it. `failure`: only where a reward failed on it.
        """
        details: dict[str, Any] = {}
        if self.parts:
            values = {name: part[row] for name, part in self.parts.items()}
            details["rewards"] = {name: value for name, value in values.items() if not math.isnan(value)}
        texts = [
            f"{failure.reward}: {failure.message}" if self.parts else failure.message
            for failure in self.failures
            if failure.row == row
        ]
        return details | ({"failure": "; ".join(texts)} if texts else {})


class Outcome(NamedTuple):
    """The outcome of one call. kind: `values`, `wrong` (see RewardError), or the kind of a failure.

    values: filled if the kind is `values`. message: filled otherwise. failures: of single completions, although the
        call as a whole has values.
    """

    kind: str
    values: list[float]
    message: str = ""
    failures: tuple[Failure, ...] = ()

    @classmethod
    def read(cls, fields: list[Any]) -> Outcome:
        """The outcome that another process has sent as JSON."""
        kind, values, message, failures = fields
        return cls(kind, values, message, tuple(Failure(*failure) for failure in failures))


_failure_log: ContextVar[list[Failure] | None] = ContextVar("failure_log", default=None)


@contextmanager
def failures() -> Iterator[list[Failure]]:
    """Collect the failures that rewards note within the context instead of raising."""
    failure_log: list[Failure] = []
    token = _failure_log.set(failure_log)
    try:
        yield failure_log
    finally:
        _failure_log.reset(token)


def note_failures(noted: list[Failure]) -> None:
    """Add to the failures of the context; `row` is the index of the completion in the call of the reward."""
    failure_log = _failure_log.get()
    if failure_log is not None:
        failure_log.extend(noted)


def slice_columns(columns: Columns, start: int, end: int) -> Columns:
    """The rows from `start` up to `end` of every column."""
    return {name: column[start:end] for name, column in columns.items()}
