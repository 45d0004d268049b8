"""The expressions of given numbers: all that some signs can make, with no parenthesis too many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

SIGNS = "+-*/"

_Part = tuple[Fraction, str, bool]  # value, text, and whether the text is a sum or difference outside parentheses


def apply_sign(left: Fraction, sign: str, right: Fraction) -> Fraction:
    """`left sign right`, exactly. Raises ZeroDivisionError for a division by 0."""
    if sign in "+-":
        return left + right if sign == "+" else left - right
    return left * right if sign == "*" else left / right


def expressions(numbers: Sequence[int], signs: str = SIGNS) -> Iterator[tuple[Fraction, str]]:
    """Values and texts of all expressions of all the numbers, each number once, none of which divides by 0.

    Combines them two by two in every way, so a text may come more than once: three numbers and `+-*` give 108, six
    numbers millions.

    Args:
        numbers: ≥ 0, at least one.
        signs: those that are used, of `+-*/`.
    """
    parts: list[_Part] = [(Fraction(number), str(number), False) for number in numbers]
    for value, text, _ in _combined(parts, signs):
        yield value, text


def find_expression(numbers: Sequence[int], target: int) -> str | None:
    """An expression of all the numbers that makes the target, None if there is none; tries all, so for few numbers."""
    return next((text for value, text in expressions(numbers) if value == target), None)


def _combined(parts: list[_Part], signs: str) -> Iterator[_Part]:
    if len(parts) == 1:
        yield parts[0]
    for i, left in enumerate(parts):
        for j, right in enumerate(parts):
            if i != j:
                rest = [part for k, part in enumerate(parts) if k not in (i, j)]
                for sign in signs:
                    if sign != "/" or right[0]:
                        yield from _combined([_joined(left, sign, right), *rest], signs)


def _joined(left: _Part, sign: str, right: _Part) -> _Part:
    (x, a, left_is_sum), (y, b, right_is_sum) = left, right
    if left_is_sum and sign in "*/":
        a = f"({a})"
    if (right_is_sum and sign != "+") or (sign == "/" and not b.isdigit()):
        b = f"({b})"
    return apply_sign(x, sign, y), f"{a} {sign} {b}", sign in "+-"
