"""The outcomes of calls of a reward: values and failures. If a batch fails, each completion is scored alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .call import Reward, RewardError, score

Columns = dict[str, list[Any]]


class Failure(NamedTuple):
    """A completion on which the reward failed; it scores 0.

    row: the index of the completion. kind: `timeout`, `crash` (the process ended) or `exception`. message: a text for
        people, of at most 500 characters.
    """

    row: int
    kind: str
    message: str


@dataclass(frozen=True)
class Scores:
    """One value for each completion, and the failures: the completions that score 0 because the reward failed."""

    values: list[float]
    failures: list[Failure] = field(default_factory=list)


class Outcome(NamedTuple):
    """The outcome of one call. kind: `values`, `wrong` (see RewardError), or the kind of a failure.

    values: filled if the kind is `values`. message: filled otherwise.
    """

    kind: str
    values: list[float]
    message: str = ""


Call = Callable[[list[str], Columns], Outcome]


def call_here(reward: Reward, completions: list[str], columns: Columns) -> Outcome:
    """Call a reward in this process."""
    try:
        return Outcome("values", score(reward, completions, columns))
    except RewardError as error:
        return Outcome("wrong", [], str(error)[:500])
    except Exception as error:  # a reward may raise anything, and the run continues
        return Outcome("exception", [], f"{type(error).__name__}: {error}"[:500])


def score_all(call: Call, completions: list[str], columns: Columns, *, singly: bool = False) -> Scores:
    """The scores of all completions. `call` gets all of them at once; if that fails, or with `singly`, one at a time.

    Raises:
        RewardError: the reward did not return one finite number for each completion.
    """
    if not singly and len(completions) > 1:
        outcome = call(completions, columns)
        if outcome.kind == "wrong":
            raise RewardError(outcome.message)
        if outcome.kind == "values":
            return Scores(outcome.values)
    scores = Scores([])
    for index in range(len(completions)):
        outcome = call(completions[index : index + 1], slice_columns(columns, index, index + 1))
        if outcome.kind == "wrong":
            raise RewardError(outcome.message)
        if outcome.kind != "values":
            scores.failures.append(Failure(index, outcome.kind, outcome.message))
        scores.values.append(outcome.values[0] if outcome.kind == "values" else 0.0)
    return scores


def slice_columns(columns: Columns, start: int, end: int) -> Columns:
    """The rows from `start` up to `end` of every column."""
    return {name: column[start:end] for name, column in columns.items()}
