"""Whether two expressions have the same value: exactly if both are rational, else to at least 60 digits."""

from __future__ import annotations

from typing import Any

from .exact import exact_value
from .expressions import Node, UndecidedError, symbols
from .numeric import Numeric, Point

_DIGITS = 60


def same_value(a: Node, b: Node) -> bool:
    """Whether two expressions have the same value: exactly if both are rational, else to at least 60 digits.

    The error is relative to the largest value inside the expressions, so no difference is too small to be seen.
    Expressions with symbols are compared at two positive points, and at a negative one if both are real there.
    """
    try:
        if not symbols(a) and not symbols(b):
            exact = exact_value(a), exact_value(b)
            if exact[0] is not None and exact[1] is not None:
                return exact[0] == exact[1]
            return same_at(a, b, None)
        if symbols(a) != symbols(b) and not (_may_cancel(a) or _may_cancel(b)):
            return False
        return same_at(a, b, 0) and same_at(a, b, 1) and same_at(a, b, 2, real=True)
    except UndecidedError:
        return False


def _may_cancel(node: Node) -> bool:
    return node.op in ("add", "mul", "div", "neg", "pow", "call")


def same_at(a: Node, b: Node, point: Point, *, real: bool = False) -> bool:
    """Whether two values are the same at a point. With `real`, a value that is undefined or not real equals any."""
    digits = _DIGITS + 30
    for _ in range(3):
        numeric = Numeric(point, digits)
        try:
            first, second = numeric.value(a), numeric.value(b)
        except UndecidedError:
            if real:
                return True
            raise
        mp = numeric.mp
        if mp.isinf(first) or mp.isinf(second):
            return bool(first == second)
        if real and (_imaginary(numeric, first) or _imaginary(numeric, second)):
            return True
        decades = int(numeric.largest - numeric.smallest) + 1
        enough = _DIGITS + 2 * decades
        if enough <= digits:
            scale = mp.mpf(10) ** (int(numeric.largest) - digits + 15)
            return bool(abs(first - second) <= scale)
        if abs(first - second) > mp.mpf(10) ** (int(numeric.largest) - digits + 15):
            return False
        digits = enough
    raise UndecidedError


def _imaginary(numeric: Numeric, value: Any) -> bool:
    return not numeric.is_zero(numeric.mp.mpc(value).imag)


def near(a: Node, b: Node, tolerance: float) -> bool:
    """Whether two numbers without symbols are real and differ by at most `tolerance` times the larger one."""
    numeric = Numeric(None, _DIGITS)
    try:
        first, second = numeric.value(a), numeric.value(b)
    except UndecidedError:
        return False
    if numeric.mp.im(first) or numeric.mp.im(second) or numeric.mp.isinf(first) or numeric.mp.isinf(second):
        return False
    return bool(abs(first - second) <= tolerance * max(abs(first), abs(second)))
