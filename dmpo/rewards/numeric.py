"""The value of an expression with as many digits as needed, by mpmath, in bounded time and range."""

from __future__ import annotations

import zlib
from functools import cache
from typing import Any

from .expressions import Node, UndecidedError

_WIDEST = 900  # the most decades between the largest and the smallest value within an expression
_LARGEST_ARGUMENT = 1.0e9  # the largest argument of exp, sin and so on

Point = int | None
"""The number that selects the values of the symbols; None if the expression must have no symbols."""


@cache
def _context() -> Any:
    from mpmath.ctx_mp import MPContext  # type: ignore[import-untyped]

    return MPContext()


class Numeric:
    """Computes values at one point with one number of digits, and records the range of their decades.

    The name of a symbol and the point determine its value; e, i and π have their usual values.
    """

    def __init__(self, point: Point, digits: int) -> None:
        self.mp = _context()
        self.mp.dps = digits
        self.point = point
        self.largest, self.smallest = 0.0, 0.0  # log10 of absolute values

    def value(self, node: Node) -> Any:
        """The value, a real or complex number of mpmath.

        Raises:
            UndecidedError: the value is not defined, or it exceeds the bounds.
        """
        try:
            result = self.mp.convert(self._value(node))
        except (ArithmeticError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise UndecidedError from error
        except self.mp.NoConvergence as error:
            raise UndecidedError from error
        absolute = abs(result)
        if self.mp.isnan(absolute):
            raise UndecidedError
        if absolute and not self.mp.isinf(absolute):
            magnitude = float(self.mp.mag(absolute)) * 0.30103
            self.largest, self.smallest = max(self.largest, magnitude), min(self.smallest, magnitude)
            if self.largest - self.smallest > _WIDEST:
                raise UndecidedError
        return result

    def _value(self, node: Node) -> Any:
        mp, op = self.mp, node.op
        if op == "num" and node.value is not None:
            return mp.mpf(node.value.numerator) / node.value.denominator
        if op in ("sym", "word"):
            return self.symbol(node.name)
        if op == "inf":
            return mp.inf
        values = [self.value(argument) for argument in node.args]
        if op == "add":
            total = mp.fsum(values)
            # A sum that is only rounding error is 0.
            return mp.mpf(0) if abs(total) < max(map(abs, values)) * mp.mpf(10) ** (15 - mp.dps) else total
        if op == "mul":
            return values[0] * values[1]
        if op == "neg":
            return -values[0]
        if op in ("div", "ratio") and len(values) == 2:
            if self.is_zero(values[1]):
                raise UndecidedError
            return values[0] / values[1]
        if op == "percent":
            return values[0] / 100
        if op == "degree":
            return values[0] * mp.pi / 180
        if op == "pow":
            return self.power(values[0], values[1])
        if op == "fact":
            return self.factorial(values[0])
        if op == "call":
            result = self.called(node.name, values)
            return mp.mpf(0) if self.is_zero(result) else result
        raise UndecidedError

    def is_zero(self, value: Any) -> bool:
        return abs(value) < self.mp.mpf(10) ** (int(self.smallest) - self.mp.dps + 15)

    def symbol(self, name: str) -> Any:
        if name == "e":
            return self.mp.e
        if name == "pi":
            return self.mp.pi
        if name == "i":
            return self.mp.j
        if self.point is None:
            raise UndecidedError
        seed = zlib.crc32(f"{name}/{self.point}".encode())
        value = self.mp.mpf(seed % 1_000_003 + 300_007) / 400_009  # from 0.75 to 3.25
        return -value if self.point == 2 else value

    def bounded(self, value: Any) -> Any:
        if abs(value) > _LARGEST_ARGUMENT:
            raise UndecidedError
        return value

    def power(self, base: Any, exponent: Any) -> Any:
        mp = self.mp
        if self.is_zero(base):
            if mp.re(exponent) <= 0:
                raise UndecidedError
            return mp.mpf(0)
        self.bounded(exponent * mp.log(base))
        if mp.isint(exponent):
            return base ** int(mp.re(exponent))
        return mp.power(base, exponent)

    def factorial(self, value: Any) -> Any:
        if not 0 <= mp_real(self.mp, value) <= 500:
            raise UndecidedError
        return self.mp.gamma(value + 1)

    def root(self, value: Any, index: Any) -> Any:
        mp = self.mp
        if mp.im(index) or not mp.isint(index) or not 1 <= index <= 1000:
            raise UndecidedError
        if not mp.im(value) and mp.re(value) < 0 and int(index) % 2:
            return -mp.root(-mp.re(value), int(index))
        return mp.root(value, int(index))

    def called(self, name: str, values: list[Any]) -> Any:
        mp, first = self.mp, values[0]
        if name in ("root", "cbrt"):
            return self.root(first, mp.mpf(3) if name == "cbrt" else values[1] if len(values) == 2 else mp.mpf(2))
        if name in ("log", "ln", "lg"):
            if self.is_zero(first):
                raise UndecidedError
            base = values[1] if len(values) == 2 else mp.mpf(10)
            return mp.log(first) if name == "ln" else mp.log(first) / mp.log(base)
        if name in ("abs", "norm"):
            return abs(first)
        if name in ("floor", "ceil"):
            near = mp.nint(mp_real(mp, first))
            if self.is_zero(first - near):
                return near
            return mp.floor(first) if name == "floor" else mp.ceil(first)
        if name == "binom":
            self.bounded(first)
            return mp.binomial(first, values[1]) if abs(values[1]) < 500 else self.undefined()
        if name in ("max", "min"):
            reals = [mp_real(mp, value) for value in values]
            return max(reals) if name == "max" else min(reals)
        if name in ("Re", "Im", "arg"):
            return {"Re": mp.re, "Im": mp.im, "arg": mp.arg}[name](first)
        if name in _PLAIN:
            value = getattr(mp, _PLAIN[name])(self.bounded(first))
            if name in ("tan", "sec", "cot", "csc") and abs(value) > mp.mpf(10) ** (mp.dps // 2):
                raise UndecidedError
            return value
        raise UndecidedError

    def undefined(self) -> Any:
        raise UndecidedError


_PLAIN = {
    **{name: name for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "exp")},
    **{f"arc{name}": f"a{name}" for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
}


def mp_real(mp: Any, value: Any) -> Any:
    """The value as a real number.

    Raises:
        UndecidedError: the value has an imaginary part.
    """
    if mp.im(value):
        raise UndecidedError
    return mp.re(value)
