"""Expressions as trees."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

LONGEST_NUMBER = 400
"""Digits of a number that is read."""


class UnreadError(Exception):
    """A text, or a part of it, that the grammar does not hold."""


class UndecidedError(Exception):
    """A value that is not defined, or beyond the bounds."""


@dataclass(frozen=True)
class Node:
    r"""An operation and its operands.

    op: `num` (value; name is its digits), `sym` (name), `word` (name), `inf`; `add`, `mul`, `div`, `ratio`, `neg`,
        `pow`, `fact`, `percent`, `degree`, `call` (name), `mod`; `relation` (operands and their signs, name has the
        signs with blanks), `bound` (a sign and what follows), `tuple` (name has the brackets), `set`, `list`, `union`,
        `intersection`, `difference`, `matrix` (of `row`), `quantity` (name is the unit).
    """

    op: str
    args: tuple[Node, ...] = ()
    name: str = ""
    value: Fraction | None = None


def symbols(node: Node) -> frozenset[str]:
    """The names in an expression that stand for unknown values."""
    if node.op in ("sym", "word"):
        return frozenset() if node.name in ("e", "i", "pi") else frozenset((node.name,))
    return frozenset().union(*(symbols(argument) for argument in node.args))


def number(digits: str) -> Node:
    """The node of a number, written in digits with at most one point."""
    if len(digits) > LONGEST_NUMBER:
        raise UnreadError
    return Node("num", name=digits, value=Fraction(digits.rstrip(".") if not digits.startswith(".") else "0" + digits))
