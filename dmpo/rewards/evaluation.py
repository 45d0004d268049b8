"""The value of an expression: an exact rational where it has one, else a number of as many digits as it takes.

Both are bounded in time and size: beyond the bounds an expression has no value here, and `UndecidedError` says so.
"""

from __future__ import annotations

import math
import zlib
from fractions import Fraction
from functools import cache
from typing import Any

from .expressions import Node

MOST_BITS = 60_000
"""Bits of a numerator or denominator; 2^{2005}, 2004! and 10^{10000} have fewer, 2^{99999} more."""

_MOST_WORK = 1.0e11  # of exact arithmetic on one expression, as the sum of the squares of bits
_WIDEST = 900  # decades between the largest and the smallest value within an expression
_DIGITS = 60
_LARGEST_ARGUMENT = 1.0e9  # of exp, sin and so on

Point = int | None
"""Which values the symbols have: None where there must be no symbol."""


class UndecidedError(Exception):
    """A value that is not defined, or beyond the bounds."""


class _NotRational(Exception):
    pass


def exact_value(node: Node) -> Fraction | None:
    """The value of an expression of integers, fractions and decimals; None where it has anything else in it.

    Raises:
        UndecidedError: it divides by 0, or its digits are too many.
    """
    try:
        return _Exact().value(node)
    except _NotRational:
        return None


class _Exact:
    def __init__(self) -> None:
        self.work = 0.0

    def value(self, node: Node) -> Fraction:
        op = node.op
        if op == "num" and node.value is not None:
            return self.kept(node.value)
        if op == "add":
            total = Fraction(0)
            for argument in node.args:
                total = self.kept(total + self.value(argument))
            return total
        if op == "mul":
            return self.kept(self.value(node.args[0]) * self.value(node.args[1]))
        if op == "neg":
            return -self.value(node.args[0])
        if op in ("div", "ratio") and len(node.args) == 2:
            over, under = self.value(node.args[0]), self.value(node.args[1])
            if not under:
                raise UndecidedError
            return self.kept(over / under)
        if op == "percent":
            return self.value(node.args[0]) / 100
        if op == "pow":
            return self.power(self.value(node.args[0]), self.value(node.args[1]))
        if op == "fact":
            return self.factorial(self.value(node.args[0]))
        if op == "call":
            return self.called(node)
        raise _NotRational

    def kept(self, value: Fraction) -> Fraction:
        bits = value.numerator.bit_length() + value.denominator.bit_length()
        if bits > 500:
            self.work += float(bits) ** 2
        if bits > 2 * MOST_BITS or self.work > _MOST_WORK:
            raise UndecidedError
        return value

    def power(self, base: Fraction, exponent: Fraction) -> Fraction:
        if exponent.denominator != 1:
            root = rational_root(base, exponent.denominator)
            if root is None:
                raise _NotRational
            base, exponent = root, Fraction(exponent.numerator)
        count = exponent.numerator
        if base in (0, 1, -1):
            if base == 0 and count <= 0:
                raise UndecidedError
            return base ** (count % 2 + 2) if base else base
        if abs(count) * (max(base.numerator.bit_length(), base.denominator.bit_length()) - 1) > MOST_BITS:
            raise UndecidedError
        return self.kept(base**count)

    def factorial(self, value: Fraction) -> Fraction:
        if value.denominator != 1 or value < 0 or value > 5000:
            raise UndecidedError
        return self.kept(Fraction(math.factorial(value.numerator)))

    def called(self, node: Node) -> Fraction:
        values = [self.value(argument) for argument in node.args]
        if node.name == "abs":
            return abs(values[0])
        if node.name in ("floor", "ceil"):
            return Fraction(math.floor(values[0]) if node.name == "floor" else math.ceil(values[0]))
        if node.name in ("max", "min"):
            return max(values) if node.name == "max" else min(values)
        if node.name in ("gcd", "lcm") and all(value.denominator == 1 for value in values):
            integers = [value.numerator for value in values]
            return Fraction(math.gcd(*integers) if node.name == "gcd" else math.lcm(*integers))
        if node.name == "binom":
            n, k = values
            if n.denominator != 1 or k.denominator != 1 or not 0 <= n <= 5000 or k < 0:
                raise UndecidedError
            return self.kept(Fraction(math.comb(n.numerator, k.numerator)))
        if node.name in ("root", "cbrt"):
            index = 3 if node.name == "cbrt" else values[1] if len(values) == 2 else Fraction(2)
            root = rational_root(values[0], index.numerator) if index.denominator == 1 else None
            if root is not None:
                return root
        raise _NotRational


def rational_root(value: Fraction, index: int) -> Fraction | None:
    """The real root of a rational, None where it is no rational."""
    if not 1 <= index <= 1000:
        return None
    if value < 0:
        if index % 2 == 0:
            return None
        root = rational_root(-value, index)
        return None if root is None else -root
    over, under = _integer_root(value.numerator, index), _integer_root(value.denominator, index)
    return None if over is None or under is None else Fraction(over, under)


def _integer_root(value: int, index: int) -> int | None:
    if value < 2:
        return value
    if value.bit_length() > 8000:
        return None
    if index == 2:
        root = math.isqrt(value)
        return root if root * root == value else None
    low, high = 1, 1 << (value.bit_length() // index + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**index <= value else (low, middle - 1)
    return low if low**index == value else None


# Values that are not rational.


@cache
def _context() -> Any:
    from mpmath.ctx_mp import MPContext  # type: ignore[import-untyped]

    return MPContext()


class Numeric:
    """Values at one point and one number of digits, and the decades that they span.

    Symbols other than e, i and π get a value that their name and the point determine.
    """

    def __init__(self, point: Point, digits: int) -> None:
        self.mp = _context()
        self.mp.dps = digits
        self.point = point
        self.largest, self.smallest = 0.0, 0.0  # log10 of absolute values

    def value(self, node: Node) -> Any:
        """The value, a real or complex number of mpmath.

        Raises:
            UndecidedError: none is defined, or it is beyond the bounds.
        """
        try:
            result = self.mp.convert(self._value(node))
        except (ArithmeticError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise UndecidedError from error
        except self.mp.NoConvergence as error:
            raise UndecidedError from error
        size = abs(result)
        if self.mp.isnan(size):
            raise UndecidedError
        if size and not self.mp.isinf(size):
            magnitude = float(self.mp.mag(size)) * 0.30103
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
            # What is left of a sum by rounding alone is 0.
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
        value = self.mp.mpf(seed % 1_000_003 + 300_007) / 400_009  # 0.75 to 3.25
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
    """The real number that a value is.

    Raises:
        UndecidedError: it has an imaginary part.
    """
    if mp.im(value):
        raise UndecidedError
    return mp.re(value)


def symbols(node: Node) -> frozenset[str]:
    """The names in an expression that stand for unknown values."""
    if node.op in ("sym", "word"):
        return frozenset() if node.name in ("e", "i", "pi") else frozenset((node.name,))
    return frozenset().union(*(symbols(argument) for argument in node.args))


def same_value(a: Node, b: Node) -> bool:
    """Whether two expressions have the same value: exactly where both are rational, else to 40 digits and more.

    Numbers differ where their quotient does: no difference is too small. Expressions with symbols are compared at two
    positive points and, where both are real there, at a negative one.
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
    """Whether two values are the same at a point; `real`: also where one of them is not defined or not real."""
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
    """Whether two numbers without symbols are real and differ by at most a share of the larger."""
    numeric = Numeric(None, _DIGITS)
    try:
        first, second = numeric.value(a), numeric.value(b)
    except UndecidedError:
        return False
    if numeric.mp.im(first) or numeric.mp.im(second) or numeric.mp.isinf(first) or numeric.mp.isinf(second):
        return False
    return bool(abs(first - second) <= tolerance * max(abs(first), abs(second)))
