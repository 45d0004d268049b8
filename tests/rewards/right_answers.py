r"""Right answers of MATH's kinds.

They are of our own making, in the forms of MATH's: numbers, fractions, roots, powers, complex numbers, expressions,
equations, intervals, tuples, lists, sets, matrices, per cents, money, degrees, units, bases, words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

FIXED: dict[str, list[str]] = {
    "words": [
        *[r"\text{even}", r"\text{odd}", r"\text{Evelyn}", r"\text{east}", r"\text{Monday}", r"\text{neither}"],
        *[r"\text{Yes}", r"\text{No}", r"\text{ellipse}", r"\text{two lines}", r"\text{October 30}", r"\text{March 5}"],
        *[r"\text{June 15, 2004}", r"\text{1:03 PM}", r"\text{10:30 a.m.}", r"\text{(C)}", r"\text{E}", r"\text{B,C}"],
        *[
            r"\text{A,C,F}",
            r"\text{circle}",
            r"\text{hyperbola}",
            r"\text{Navin}",
            r"\text{undefined}",
            r"\text{Sunday}",
        ],
    ],
    "sets": [r"\emptyset", r"\{0\}", r"\{1,2,3\}", r"\{-1,0,\tfrac12\}"],
    "symbols": [r"\infty", r"-\infty", r"\pi", "e", "x", r"\alpha", r"\theta", "D", r"\overline{AB}"],
    "expressions": [
        *["x^2 + 2x - 3", "p - q", "(x - 9)(x + 9)", "x^5 - x^4 + x^3 - x^2 + x - 1", "3R^2", "2k + 2", r"\tan x"],
        *[r"\sin^2 \theta", r"12x\sqrt{35x}", r"\frac{x+2}{7}", r"\frac{2x-3}{x^2+1}", "a + b + c", "abc", "-3xy^2"],
        *[r"\frac{1}{2}mv^2", "4x^2y - 8y^3", r"e^{2x}", r"2^{n+1} - 1", r"\frac{n(n+1)}{2}", r"\log_2 x", r"|x - 3|"],
        *[r"\sqrt{x^2 + 4}", r"\cos 5x", r"x_1 + x_2", r"\frac{a}{b} + \frac{b}{a}", r"7(3 + y)^2", r"2\pi r"],
    ],
    "equations": ["y = 2x + 3", "x + 2y - 5 = 0", "x^2 + y^2 = 25", "x = 4", r"y = -\frac{3}{4}x + 2", "f(x) = 3x - 7"],
    "inequalities": ["x > 3", r"x \le -2", r"-1 < x < 4", r"2 \leq y \leq 9", r"x \neq 5", r"a \ge \frac{1}{2}"],
    "unions": [
        r"(-\infty, 0) \cup (0, \infty)",
        r"(-\infty, -3] \cup [4, \infty)",
        r"[1, 2) \cup (3, 5]",
        r"\left( -\infty, -\frac{1}{2} \right) \cup (2, 7)",
    ],
    "huge numbers": [
        *[r"2^{1999}", r"3^{50} + 1", r"\frac{1}{2^{98}}", r"10^{-20}", r"\frac{2^{2005}+1}{3 \cdot 2^{2006}}", "10!"],
        *[r"\frac{1}{2004!}", r"1.6 \times 10^{-19}", r"6.02 \times 10^{23}", r"\binom{20}{7}", r"7^{100} - 7^{99}"],
    ],
    "functions": [
        *[
            r"\log_2 3",
            r"\sin 20^\circ",
            r"\frac{\pi}{4} + 2 - \sqrt{2}",
            r"e^{\pi/2}",
            r"\ln 5",
            r"\arctan \frac{1}{3}",
        ],
        *[r"\sqrt[3]{4}", r"2\sqrt[3]{9}", r"\frac{\sqrt[3]{2}}{3}", r"\sqrt{2 + \sqrt{3}}", r"\cos \frac{\pi}{7}"],
    ],
}
"""Right answers that are listed."""


def _nonzero(random: Random, most: int) -> int:
    return random.choice((-1, 1)) * random.randint(1, most)


def _fraction(random: Random) -> str:
    sign = random.choice(("", "-"))
    under = random.randint(2, 99)
    over = next(n for n in iter(lambda: random.randint(1, 99), 0) if n % under)
    return rf"{sign}\frac{{{over}}}{{{under}}}"


def _root(random: Random) -> str:
    factor = random.choice(("", "2", "3", "11", "-5"))
    return rf"{factor}\sqrt{{{random.choice((2, 3, 5, 6, 7, 13, 51, 110))}}}"


def _end(random: Random, low: int) -> str:
    return str(low + random.randint(1, 9))


def _interval(random: Random) -> str:
    low = random.randint(-9, 9)
    left, right = random.choice("(["), random.choice(")]")
    return f"{left}{low}, {_end(random, low)}{right}"


def _tuple(random: Random) -> str:
    elements = [random.choice((str(_nonzero(random, 30)), _fraction(random))) for _ in range(random.randint(2, 3))]
    return rf"\left( {', '.join(elements)} \right)"


def _list(random: Random) -> str:
    return ", ".join(map(str, random.sample(range(-20, 60), random.randint(2, 4))))


def _matrix(random: Random) -> str:
    rows, columns = random.randint(1, 3), random.randint(1, 3)
    cells = [[str(_nonzero(random, 20)) for _ in range(columns)] for _ in range(rows + (columns == 1 == rows))]
    body = r" \\ ".join(" & ".join(row) for row in cells)
    return rf"\begin{{pmatrix}} {body} \end{{pmatrix}}"


def _complex(random: Random) -> str:
    return f"{_nonzero(random, 20)} {random.choice('+-')} {random.randint(2, 20)}i"


_UNITS = ("cm", "feet", "square inches", "miles", "hours", "degrees", "km/h", "dollars", "dogs", "cm^2", "meters")


def _unit(random: Random) -> str:
    unit = random.choice(_UNITS)
    number = random.randint(2, 999)
    return rf"{number}\text{{ cm}}^2" if unit == "cm^2" else rf"{number}\text{{ {unit}}}"


MADE: dict[str, Callable[[Random], str]] = {
    "integers": lambda random: str(_nonzero(random, random.choice((9, 99, 9_999, 10_000_000)))),
    "decimals": lambda random: (
        f"{random.choice(('', '-'))}{random.randint(0, 99)}.{random.randint(0, 99)}{random.randint(1, 9)}"
    ),
    "fractions": _fraction,
    "roots": _root,
    "sums of roots": lambda random: (
        rf"{_nonzero(random, 20)} {random.choice('+-')} {random.choice((2, 3, 7))}\sqrt{{{random.choice((2, 3, 5))}}}"
    ),
    "quotients of roots": lambda random: rf"\frac{{\sqrt{{{random.choice((2, 3, 5, 7))}}}}}{{{random.randint(2, 9)}}}",
    "multiples of pi": lambda random: rf"{random.choice(('', '2', '15', '-3'))}\pi",
    "quotients of pi": lambda random: rf"\frac{{{random.choice(('', '3', '5'))}\pi}}{{{random.choice((2, 4, 7))}}}",
    "powers": lambda random: f"{random.randint(2, 9)}^{{{random.randint(3, 30)}}}",
    "complex numbers": _complex,
    "intervals": _interval,
    "tuples": _tuple,
    "lists": _list,
    "matrices": _matrix,
    "per cents": lambda random: rf"{random.randint(2, 99)}\%",
    "money": lambda random: rf"\${random.randint(2, 99)}.{random.randint(10, 99)}",
    "degrees": lambda random: rf"{random.randint(2, 179)}^\circ",
    "units": _unit,
    "bases": lambda random: (
        f"{random.randint(1, 6)}{random.randint(0, 6)}{random.randint(1, 6)}_{random.choice('789')}"
    ),
    "mixed numbers": lambda random: (
        rf"{random.randint(2, 20)}\frac{{{random.randint(1, 4)}}}{{{random.choice((5, 7, 9))}}}"
    ),
    "plus or minus": lambda random: rf"{random.randint(2, 9)} \pm \sqrt{{{random.choice((2, 3, 19))}}}",
}
"""Right answers that are made."""


def golds(random: Random, count: int) -> Iterator[tuple[str, str]]:
    """Kinds and right answers: the fixed ones, and `count` of each kind that is made."""
    for kind, texts in FIXED.items():
        yield from ((kind, text) for text in texts)
    for kind, make in MADE.items():
        yield from ((kind, make(random)) for _ in range(count))
