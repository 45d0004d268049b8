"""Ready-made rewards to add to others: form, length, exact answer, repetition.

A config gives their options: `rewards: [{function: "dmpo.rewards:length", options: {limit: 400}}]`. In Python,
`functools.partial(length, limit=400)` does the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import regex

from .answers import without_special_tokens
from .form import option_names
from .outcomes import Failure, note_failures
from .stated_answers import stated_answer

MATCH_SECONDS = 1.0
"""CPU seconds of the process for the match of one completion."""

Unit = Literal["characters", "words"]


@option_names("pattern")
def format(completions: list[str], *, pattern: str, **_: Any) -> list[float]:
    r"""1 where the regular expression matches anywhere in a completion, else 0.

    `.` matches line ends, too. `\A` and `\Z` stand for the ends of the completion, which has no special tokens and no
    white space at its end. A match that takes longer than MATCH_SECONDS is none, and counts as a failure.

    Raises:
        ValueError: the pattern is no regular expression.
    """
    return [float(match is not None) for match in _searched(pattern, completions)]


@option_names("column", "pattern")
def exact_answer(
    completions: list[str], *, column: str = "answer", pattern: str | None = None, **columns: Any
) -> list[float]:
    r"""1 where the answer of a completion is the text of a column, else 0; white space at the ends does not count.

    The answer is what the completion states (`stated_answers.stated_answer`). With `pattern`, it is the first
    group (or all) of the last match of this regular expression.

    Args:
        column: the column that has the right answers; numbers are compared as Python writes them.
        pattern: as of `format`.

    Raises:
        ValueError: there is no such column, or the pattern is no regular expression.
    """
    if column not in columns:
        raise ValueError(f"column of exact_answer must be one of {', '.join(columns) or 'no column'}, got {column!r}")
    answers: list[str | None]
    if pattern is None:
        answers = [stated_answer(text) or "" for text in completions]
    else:
        answers = [_group(match) for match in _searched(pattern, completions, last=True)]
    return [
        float(answer is not None and answer.strip() == str(right).strip())
        for answer, right in zip(answers, columns[column], strict=True)
    ]


@option_names("limit", "target", "unit")
def length(
    completions: list[str],
    *,
    limit: int | None = None,
    target: int | None = None,
    unit: Unit = "characters",
    **_: Any,
) -> list[float]:
    """How well the lengths fit, in [0, 1].

    With `limit`: 1 up to the limit, then less in proportion, 0 from twice the limit on. With `target`: 1 at the target,
    then less in proportion to the distance, 0 from twice the target on, and at no text.

    Args:
        limit, target: one of the two, in `unit`.
        unit: characters or words; words are what white space separates.

    Raises:
        ValueError: both are given or none, or one is below 1, or the unit is another.
    """
    if (limit is None) == (target is None):
        raise ValueError(f"length takes either limit or target, got limit={limit} and target={target}")
    aim = limit if limit is not None else target
    if not isinstance(aim, int) or aim < 1:
        raise ValueError(f"limit or target of length must be a whole number ≥ 1, got {aim!r}")
    lengths = [len(_units(text, unit)) for text in completions]
    over = [count / aim - 1 for count in lengths]
    return [max(0.0, 1.0 - (max(0.0, excess) if target is None else abs(excess))) for excess in over]


@option_names("n", "unit")
def repetition(completions: list[str], *, n: int = 3, unit: Unit = "words", **_: Any) -> list[float]:
    """Minus the share of n-grams that occurred earlier in the completion, in (−1, 0]; 0 below two n-grams.

    Raises:
        ValueError: n is below 1, or the unit is another.
    """
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n of repetition must be a whole number ≥ 1, got {n!r}")
    penalties = []
    for text in completions:
        units = _units(text, unit)
        grams = [tuple(units[i : i + n]) for i in range(len(units) - n + 1)]
        penalties.append(len(set(grams)) / len(grams) - 1.0 if grams else 0.0)
    return penalties


def _units(text: str, unit: str) -> Sequence[str]:
    if unit not in get_args(Unit):
        raise ValueError(f"unit must be characters or words, got {unit!r}")
    text = without_special_tokens(text)
    return text.split() if unit == "words" else text


def _searched(pattern: str, completions: list[str], *, last: bool = False) -> list[Any]:
    """The first match in each completion, or the last one; None where there is none."""
    try:
        compiled = regex.compile(pattern, regex.DOTALL)
    except (regex.error, TypeError) as error:
        raise ValueError(f"pattern {pattern!r} is no regular expression: {error}") from error
    matches: list[Any] = []
    for row, completion in enumerate(completions):
        text, match = without_special_tokens(completion), None
        try:
            if last:  # one limit for all matches of a completion
                for match in compiled.finditer(text, timeout=MATCH_SECONDS):  # noqa: B007
                    pass
            else:
                match = compiled.search(text, timeout=MATCH_SECONDS)
        except TimeoutError:
            match = None
            message = f"pattern {pattern!r} was not matched within {MATCH_SECONDS:g} s of CPU time"
            note_failures([Failure(row, "timeout", message)])
        matches.append(match)
    return matches


def _group(match: Any) -> str | None:
    if match is None:
        return None
    group: str | None = match[1] if match.re.groups else match[0]
    return group
