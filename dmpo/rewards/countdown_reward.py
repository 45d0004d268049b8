"""Countdown's reward: it asks for an expression that equals the target and uses each given number once."""

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
    """The numbers of one puzzle, written as an expression must write them.

    Args:
        column: a list, a tensor, or a text such as "3, 5, 2".

    Raises:
        ValueError: the column is something else, or empty.
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
    """The target of one puzzle. Raises ValueError unless it is a plain number such as 13, "13" or 13.0."""
    try:
        text = _text(column)
    except ValueError:
        text = ""
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"column target must hold a number, as 13, got {_shown(column)}")
    return Fraction(text)


def uses_each_once(expression: Expression, given: Sequence[str]) -> bool:
    """Whether an expression uses each number of `given` exactly once; numbers are compared as texts."""
    return Counter(expression.numbers) == Counter(given)


def countdown_answer(completion: str) -> str | None:
    r"""The text of the expression: the last <answer>, else the last \boxed, else a completion of one short line."""
    answer = read_answer(completion)
    if answer is None:
        answer = bare_answer(completion, LONGEST_EXPRESSION)
    return answer if answer and len(answer) <= LONGEST_EXPRESSION else None


def countdown_value(completion: str, numbers: Any) -> Fraction | None:
    """The value of a completion's expression; None unless the expression uses each given number once.

    In a chain of equal expressions (`3*5-2 = 15-2 = 13`) one of them must use the numbers. For `numbers` see
    `given_numbers`.
    """
    given = given_numbers(numbers)
    answer = countdown_answer(completion)
    expressions = [] if answer is None else parse_equation(answer)
    return next((expression.value for expression in expressions if uses_each_once(expression, given)), None)


def countdown_solved(completion: str, numbers: Any, target: Any) -> bool:
    """Whether a completion reaches the target with each given number used once."""
    return countdown_value(completion, numbers) == target_value(target)


def countdown(completions: list[str], numbers: list[Any], target: list[Any], **_: Any) -> list[float]:
    """SOLVED_WEIGHT for an expression that equals the target, USED_WEIGHT for one that does not, else 0.

    An expression counts only if it uses each given number exactly once. The weights are from d1 (arXiv 2504.12216,
    appendix) and TinyZero.

    Raises:
        ValueError: the column `numbers` or `target` is malformed, see `given_numbers` and `target_value`.
    """
    scores = []
    for text, row_numbers, row_target in zip(completions, numbers, target, strict=True):
        value, right_value = countdown_value(text, row_numbers), target_value(row_target)
        scores.append(SOLVED_WEIGHT if value == right_value else USED_WEIGHT if value is not None else 0.0)
    return scores


def _text(number: Any) -> str:
    return str(number.item() if hasattr(number, "item") else number).strip()


def _shown(value: Any) -> str:
    try:
        return repr(value)[:80]
    except ValueError:  # Python refuses to write an integer of so many digits
        return f"{type(value).__name__} of too many digits"
