"""What became of calls of a reward: values, and what failed; a batch that fails is asked again one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .call import Reward, RewardError, score

Columns = dict[str, list[Any]]


class Failure(NamedTuple):
    """A completion that its reward failed on; it scores 0.

    row: its place among the completions. kind: `timeout`, `crash` (its process died) or `exception`. message: for a
        person, at most 500 characters.
    """

    row: int
    kind: str
    message: str


@dataclass(frozen=True)
class Scores:
    """One value a completion, and the completions among them that scored 0 because their reward failed."""

    values: list[float]
    failures: list[Failure] = field(default_factory=list)


class Outcome(NamedTuple):
    """Of one call: kind `values` with the values, `wrong` (see RewardError) or a failure's kind with a message."""

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
    except Exception as error:  # whatever a reward does, the run goes on
        return Outcome("exception", [], f"{type(error).__name__}: {error}"[:500])


def score_all(call: Call, completions: list[str], columns: Columns, *, singly: bool = False) -> Scores:
    """Scores of all completions by `call`: of all at once, and where that fails (or `singly`) of each alone.

    Raises:
        RewardError: the reward returned something else than one finite number a completion.
    """
    if not singly and len(completions) > 1:
        outcome = call(completions, columns)
        if outcome.kind == "wrong":
            raise RewardError(outcome.message)
        if outcome.kind == "values":
            return Scores(outcome.values)
    scores = Scores([])
    for index in range(len(completions)):
        outcome = call(completions[index : index + 1], part(columns, index, index + 1))
        if outcome.kind == "wrong":
            raise RewardError(outcome.message)
        if outcome.kind != "values":
            scores.failures.append(Failure(index, outcome.kind, outcome.message))
        scores.values.append(outcome.values[0] if outcome.kind == "values" else 0.0)
    return scores


def part(columns: Columns, start: int, end: int) -> Columns:
    """Rows start to end of every column."""
    return {name: column[start:end] for name, column in columns.items()}
