"""All expressions that given numbers and signs can form, without unnecessary parentheses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

SIGNS = "+-*/"

_Term = tuple[Fraction, str, bool]  # value, text, and whether the text is a sum or difference without parentheses


def apply_sign(left: Fraction, sign: str, right: Fraction) -> Fraction:
    """The exact value of `left sign right`. Raises ZeroDivisionError for a division by 0."""
    if sign in "+-":
        return left + right if sign == "+" else left - right
    return left * right if sign == "*" else left / right


def expressions(numbers: Sequence[int], signs: str = SIGNS) -> Iterator[tuple[Fraction, str]]:
    """Values and texts of all expressions that use each number once. Expressions that divide by 0 are left out.

    The numbers are combined two by two in every order, so a text may come more than once. Three numbers and `+-*` give
    108 texts, six numbers give millions.

    Args:
        numbers: at least one number, all ≥ 0.
        signs: the signs to use, out of `+-*/`.
    """
    terms: list[_Term] = [(Fraction(number), str(number), False) for number in numbers]
    for value, text, _ in _combined(terms, signs):
        yield value, text


def find_expression(numbers: Sequence[int], target: int) -> str | None:
    """An expression that equals the target and uses each number once; None if there is none.

    It tries all expressions, so only a few numbers are practical.
    """
    return next((text for value, text in expressions(numbers) if value == target), None)


def _combined(terms: list[_Term], signs: str) -> Iterator[_Term]:
    if len(terms) == 1:
        yield terms[0]
    for i, left in enumerate(terms):
        for j, right in enumerate(terms):
            if i != j:
                others = [term for k, term in enumerate(terms) if k not in (i, j)]
                for sign in signs:
                    if sign != "/" or right[0]:
                        yield from _combined([_joined(left, sign, right), *others], signs)


def _joined(left: _Term, sign: str, right: _Term) -> _Term:
    (x, a, left_is_sum), (y, b, right_is_sum) = left, right
    if left_is_sum and sign in "*/":
        a = f"({a})"
    if (right_is_sum and sign != "+") or (sign == "/" and not b.isdigit()):
        b = f"({b})"
    return apply_sign(x, sign, y), f"{a} {sign} {b}", sign in "+-"
