"""Countdown's reward: an expression that makes the target of the given numbers, each used once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from .answers import bare_answer, read_answer
from .arithmetic import LONGEST_EXPRESSION, Expression, parse_equation

USED_WEIGHT = 0.1
SOLVED_WEIGHT = 1.0

_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")


def given_numbers(column: Any) -> list[str]:
    """The numbers of one puzzle as an expression has to write them, from a list or tensor, or a text such as "3, 5, 2".

    Raises:
        ValueError: it is something else, or none.
    """
    column = column.tolist() if hasattr(column, "tolist") else column
    try:
        given = column.strip("[]() \n").replace(",", " ").split() if isinstance(column, str) else list(column)
        texts = [_text(number).removesuffix(".0") for number in given]
    except (TypeError, ValueError):
        texts = []
    if not texts or not all(_NUMBER.fullmatch(text) for text in texts):
        raise ValueError(f"column numbers must hold the numbers of each puzzle, as [3, 5, 2], got {_shown(column)}")
    return texts


def target_value(column: Any) -> Fraction:
    """The target of one puzzle. Raises ValueError where it is no number written plainly, as 13, "13" or 13.0."""
    try:
        text = _text(column)
    except ValueError:
        text = ""
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"column target must hold a number, as 13, got {_shown(column)}")
    return Fraction(text)


def uses_each_once(expression: Expression, given: Sequence[str]) -> bool:
    """Whether the numbers of an expression, as written, are those of `given_numbers`, each exactly once."""
    return Counter(expression.numbers) == Counter(given)


def countdown_answer(completion: str) -> str | None:
    r"""The text of the expression: in the last <answer>, else the last \boxed, else a completion of one short line."""
    answer = read_answer(completion)
    if answer is None:
        answer = bare_answer(completion, LONGEST_EXPRESSION)
    return answer if answer and len(answer) <= LONGEST_EXPRESSION else None


def countdown_value(completion: str, numbers: Any) -> Fraction | None:
    """The value of a completion's expression, None unless it is one of all the given numbers, each used once.

    Of a chain of equal expressions (`3*5-2 = 15-2 = 13`) one has to use them. For `numbers` see `given_numbers`.
    """
    given = given_numbers(numbers)
    answer = countdown_answer(completion)
    parts = [] if answer is None else parse_equation(answer)
    return next((part.value for part in parts if uses_each_once(part, given)), None)


def countdown_solved(completion: str, numbers: Any, target: Any) -> bool:
    """Whether a completion makes the target of all the given numbers."""
    return countdown_value(completion, numbers) == target_value(target)


def countdown(completions: list[str], numbers: list[Any], target: list[Any], **_: Any) -> list[float]:
    """SOLVED_WEIGHT for an expression that makes the target, USED_WEIGHT for one that does not, else 0.

    An expression counts only if it uses each given number exactly once. Weights: d1 (arXiv 2504.12216, appendix) and
    TinyZero.

    Raises:
        ValueError: a column `numbers` or `target` that is no such thing, see `given_numbers` and `target_value`.
    """
    scores = []
    for text, given, wanted in zip(completions, numbers, target, strict=True):
        value, goal = countdown_value(text, given), target_value(wanted)
        scores.append(SOLVED_WEIGHT if value == goal else USED_WEIGHT if value is not None else 0.0)
    return scores


def _text(number: Any) -> str:
    return str(number.item() if hasattr(number, "item") else number).strip()


def _shown(value: Any) -> str:
    try:
        return repr(value)[:80]
    except ValueError:  # an integer of more digits than Python writes
        return f"{type(value).__name__} of too many digits"
