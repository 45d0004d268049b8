"""Whether two expressions have the same value, with per cent, degrees, ratios and rounded decimals.

The table in docs/rewards.md lists what counts as equal.
"""

from __future__ import annotations

from collections.abc import Sequence

from .evaluation import near, same_value
from .exact import exact_value
from .expressions import Node, UndecidedError, symbols

TOLERANCE = 1e-6
"""The largest relative error of a decimal with at least seven digits that stands for an irrational number."""

VALUES = frozenset(
    ("num", "sym", "word", "add", "mul", "div", "neg", "pow", "fact", "percent", "degree", "call", "ratio", "inf")
)
"""The operations whose result is a single value."""

_SIGNIFICANT = 7


def same_number(answer: Node, gold: Node) -> bool:
    """Whether two single values are the same. 50% equals 50 and 1/2; 90° equals 90."""
    if answer.op == gold.op == "ratio":
        plain = all(argument.op == "num" for argument in (*answer.args, *gold.args))
        if plain and len(gold.args) == 2 and len(gold.args[1].name) == 2:  # a time of day
            return len(answer.args) == 2 and all(
                a == b or _same_plain(a, b) for a, b in zip(answer.args, gold.args, strict=True)
            )
        return _same_ratio(answer.args, gold.args)
    for op in ("percent", "degree"):
        if (answer.op == op) != (gold.op == op):
            bare = tuple(node.args[0] if node.op == op else node for node in (answer, gold))
            if _same_plain(*bare):
                return True
            if op == "degree":
                return False
    if answer.op == gold.op == "degree":
        return _same_plain(answer.args[0], gold.args[0])
    return _same_plain(answer, gold)


def has_no_value(node: Node) -> bool:
    """Whether an expression without symbols divides by 0. Such an expression is never a right answer."""
    if node.op not in VALUES or symbols(node):
        return False
    try:
        exact_value(node)
    except UndecidedError:
        return _divides_by_zero(node)
    return False


def _divides_by_zero(node: Node) -> bool:
    if node.op == "div":
        try:
            if exact_value(node.args[1]) == 0:
                return True
        except UndecidedError:
            pass
    return any(_divides_by_zero(argument) for argument in node.args)


def _same_ratio(answer: Sequence[Node], gold: Sequence[Node]) -> bool:
    return len(answer) == len(gold) and all(
        same_value(Node("mul", (answer[0], b)), Node("mul", (a, gold[0])))
        for a, b in zip(answer[1:], gold[1:], strict=True)
    )


def _same_plain(answer: Node, gold: Node) -> bool:
    if same_value(answer, gold):
        return True
    for decimal, other in ((answer, gold), (gold, answer)):
        if _is_long_decimal(decimal) and not symbols(other):
            try:
                irrational = exact_value(other) is None
            except UndecidedError:
                return False
            return irrational and near(decimal, other, TOLERANCE)
    return False


def _is_long_decimal(node: Node) -> bool:
    while node.op == "neg":
        node = node.args[0]
    return node.op == "num" and "." in node.name and len(node.name.replace(".", "").lstrip("0")) >= _SIGNIFICANT
