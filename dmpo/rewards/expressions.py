"""Expressions as trees of operations."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

LONGEST_NUMBER = 400
"""The most digits of a number; a longer number is not parsed."""


class UnreadError(Exception):
    """The grammar does not have the text, or does not have all of it."""


class UndecidedError(Exception):
    """The value is not defined, or it exceeds the bounds on time and digits."""


@dataclass(frozen=True)
class Node:
    r"""An operation and its operands.

    op: `num` (value; name has the digits), `sym` (name), `word` (name), `inf`; `add`, `mul`, `div`, `ratio`, `neg`,
        `pow`, `fact`, `percent`, `degree`, `call` (name), `mod`; `relation` (name has the signs, separated by spaces),
        `bound` (name has a sign, the operand is what follows it), `tuple` (name has the brackets), `set`, `list`,
        `union`, `intersection`, `difference`, `matrix` (the operands are `row`), `quantity` (name is the unit).
    """

    op: str
    args: tuple[Node, ...] = ()
    name: str = ""
    value: Fraction | None = None


def symbols(node: Node) -> frozenset[str]:
    """The names of the unknowns of an expression."""
    if node.op in ("sym", "word"):
        return frozenset() if node.name in ("e", "i", "pi") else frozenset((node.name,))
    return frozenset().union(*(symbols(argument) for argument in node.args))


def number(digits: str) -> Node:
    """The node of a number that is written in digits with at most one decimal point."""
    if len(digits) > LONGEST_NUMBER:
        raise UnreadError
    return Node("num", name=digits, value=Fraction(digits.rstrip(".") if not digits.startswith(".") else "0" + digits))
