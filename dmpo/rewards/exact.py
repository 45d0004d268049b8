"""The exact value of an expression of rationals, in bounded time and with a bounded number of digits."""

from __future__ import annotations

import math
from fractions import Fraction

from .expressions import Node, UndecidedError

MOST_BITS = 60_000
"""The most bits of a numerator or denominator. 2^{2005}, 2004! and 10^{10000} have fewer, 2^{99999} has more."""

_MOST_WORK = 1.0e11  # the most arithmetic for one expression: the sum of the squared numbers of bits


class _NotRationalError(Exception):
    pass


def exact_value(node: Node) -> Fraction | None:
    """The value of an expression of integers, fractions and decimals; None if the value is no rational number.

    Raises:
        UndecidedError: the expression divides by 0, or a value has too many digits.
    """
    try:
        return _Exact().value(node)
    except _NotRationalError:
        return None


class _Exact:
    def __init__(self) -> None:
        self.work = 0.0

    def value(self, node: Node) -> Fraction:
        op = node.op
        if op == "num" and node.value is not None:
            return self.bounded(node.value)
        if op == "add":
            total = Fraction(0)
            for argument in node.args:
                total = self.bounded(total + self.value(argument))
            return total
        if op == "mul":
            return self.bounded(self.value(node.args[0]) * self.value(node.args[1]))
        if op == "neg":
            return -self.value(node.args[0])
        if op in ("div", "ratio") and len(node.args) == 2:
            over, under = self.value(node.args[0]), self.value(node.args[1])
            if not under:
                raise UndecidedError
            return self.bounded(over / under)
        if op == "percent":
            return self.value(node.args[0]) / 100
        if op == "pow":
            return self.power(self.value(node.args[0]), self.value(node.args[1]))
        if op == "fact":
            return self.factorial(self.value(node.args[0]))
        if op == "call":
            return self.called(node)
        raise _NotRationalError

    def bounded(self, value: Fraction) -> Fraction:
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
                raise _NotRationalError
            base, exponent = root, Fraction(exponent.numerator)
        count = exponent.numerator
        if base in (0, 1, -1):
            if base == 0 and count <= 0:
                raise UndecidedError
            return base ** (count % 2 + 2) if base else base
        if abs(count) * (max(base.numerator.bit_length(), base.denominator.bit_length()) - 1) > MOST_BITS:
            raise UndecidedError
        return self.bounded(base**count)

    def factorial(self, value: Fraction) -> Fraction:
        if value.denominator != 1 or value < 0 or value > 5000:
            raise UndecidedError
        return self.bounded(Fraction(math.factorial(value.numerator)))

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
            return self.bounded(Fraction(math.comb(n.numerator, k.numerator)))
        if node.name in ("root", "cbrt"):
            index = 3 if node.name == "cbrt" else values[1] if len(values) == 2 else Fraction(2)
            root = rational_root(values[0], index.numerator) if index.denominator == 1 else None
            if root is not None:
                return root
        raise _NotRationalError


def rational_root(value: Fraction, index: int) -> Fraction | None:
    """The real root of a rational number; None if the root is not rational."""
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
