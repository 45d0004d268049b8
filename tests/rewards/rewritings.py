r"""Right answers of MATH's kinds, rules that write them in other ways, and rules that make wrong answers of them.

The right answers are of our own making, in the forms of MATH's (numbers, fractions, roots, powers, complex numbers,
expressions, equations, intervals, tuples, lists, sets, matrices, per cents, money, degrees, units, bases, words). Each
rule is a function of the text alone and says nothing where it does not apply.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from random import Random

Rule = Callable[[str], Iterator[str]]

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


# Other ways to write the same.

_PLAIN_INTEGER = re.compile(r"-?[0-9]+")
_SIMPLE_FRACTION = re.compile(r"\\frac\{([0-9]+)\}\{([0-9]+)\}")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")


def _replaced(gold: str, old: str, new: str) -> Iterator[str]:
    if old in gold:
        yield gold.replace(old, new)


def _outside_words(gold: str, change: Callable[[str], str]) -> str:
    pieces = re.split(r"(\\text\{[^{}]*\}|\\[A-Za-z]+|\\.)", gold)
    return "".join(piece if index % 2 else change(piece) for index, piece in enumerate(pieces))


def _wrapped(gold: str) -> Iterator[str]:
    yield from (f"${gold}$", rf"\({gold}\)", rf"\[ {gold} \]", f"$${gold}$$", f" {gold} ", f"{gold}.", f"${gold}$.")
    yield from (f"**{gold}**", f"`{gold}`", rf"\displaystyle {gold}", f"{gold}\\,", f"\\;{gold}", f"\n{gold}\n")
    yield from (rf"\boxed{{{gold}}}", f"The answer is {gold}", f"The answer is ${gold}$.", f"Answer: {gold}")


def _spaced(gold: str) -> Iterator[str]:
    yield _outside_words(gold, lambda piece: re.sub(r"(?<=[0-9a-z)\]}]) ?([-+=<>]) ?", r" \1 ", piece))
    yield _outside_words(gold, lambda piece: re.sub(r"(?<![A-Za-z]) (?=[-+0-9,(])", "", piece))
    yield _outside_words(gold, lambda piece: piece.replace(", ", r",\, "))
    yield _outside_words(gold, lambda piece: piece.replace(" + ", r"\,+\,").replace(" - ", r"\;-\;"))
    yield _outside_words(gold, lambda piece: piece.replace(",", r",\!"))


def _fraction_forms(gold: str) -> Iterator[str]:
    for form in ("dfrac", "tfrac", "cfrac"):
        yield from _replaced(gold, r"\frac", rf"\{form}")
    if re.fullmatch(rf"-?{_SIMPLE_FRACTION.pattern}", gold):
        yield _SIMPLE_FRACTION.sub(r"\1/\2", gold)
        yield _SIMPLE_FRACTION.sub(r"\1 / \2", gold)
        yield _SIMPLE_FRACTION.sub(r"{\1}/{\2}", gold)
        yield _SIMPLE_FRACTION.sub(r"\\frac{\1}{\2}\\text{ units}", gold)
        if gold[0] == "-":
            yield _SIMPLE_FRACTION.sub(r"\\frac{-\1}{\2}", gold[1:])
            yield _SIMPLE_FRACTION.sub(r"\\frac{\1}{-\2}", gold[1:])
        yield _SIMPLE_FRACTION.sub(lambda match: rf"\frac{{{3 * int(match[1])}}}{{{3 * int(match[2])}}}", gold)
    yield from _changed(gold, r"\\frac\{([0-9])\}\{([0-9])\}", r"\\frac\1\2")
    yield from _changed(gold, r"\\frac\{([0-9])\}\{([0-9])\}", r"\\frac \1 \2")
    yield from _changed(gold, r"\\frac\{([0-9])\}", r"\\frac\1")
    yield from _changed(gold, r"\\frac\{(\\pi)\}\{([0-9])\}", r"\\frac \1\2")
    yield from (
        _changed(gold, r"\\frac\{([^{}]*)\\pi\}\{([0-9]+)\}", r"\\frac{\1}{\2}\\pi")
        if r"\frac{\pi}" not in gold
        else ()
    )
    yield from _changed(gold, r"^(-?)\\frac\{(\\sqrt\{[0-9]\})\}\{([0-9])\}$", r"\1\2/\3")


def _changed(gold: str, pattern: str, replacement: str) -> Iterator[str]:
    text = re.sub(pattern, replacement, gold)
    if text != gold:
        yield text


def _signs(gold: str) -> Iterator[str]:
    typed = {r"\pi": "π", r"\infty": "∞", r" \cup ": "∪", r"^\circ": "°", r"\%": "%", r"\emptyset": r"\varnothing"}
    typed |= {
        r"\emptyset": "∅",
        r"\theta": "θ",
        r"\alpha": "α",
        r"\pm": "±",
        r"\le ": "≤ ",
        r"\leq ": "≤",
        r"\neq": "≠",
    }
    typed |= {r"\neq ": r"\ne ", r"\ge ": r"\geq ", r"\times": r"\cdot", r" \times ": "*", r" \le ": r" \leqslant "}
    typed |= {r"\left": "", r"^\circ ": r"^{\circ} "}
    for old, new in typed.items():
        text = gold.replace(old, new)
        if old == r"\left" and old in gold:
            text = text.replace(r"\right", "")
        if text != gold and not (old == r"\neq" and "≠" in gold):
            yield text
    yield from _replaced(gold, r"\emptyset", r"\varnothing")
    yield from _replaced(gold, r"\emptyset", r"\{\}")
    if "-" in gold and r"\text" not in gold:
        yield gold.replace("-", "−")
    if r"\left" not in gold and re.match(r"[(\[].*[)\]]$", gold) and r"\cup" not in gold:
        yield rf"\left{gold[:-1]}\right{gold[-1]}"
    yield from _changed(gold, r"\\sqrt\{([0-9])\}", r"\\sqrt\1")
    yield from _changed(gold, r"\\sqrt\{([0-9]+)\}", r"√\1")
    yield from _changed(gold, r"(?<![0-9])\\sqrt\{([0-9]+)\}", r"sqrt(\1)")
    yield from _changed(gold, r"([0-9])\\sqrt\{([0-9]+)\}", r"\1 \\cdot \\sqrt{\2}")
    yield from _changed(gold, r"([0-9])\\sqrt\{([0-9]+)\}", r"\1 sqrt(\2)")
    yield from _changed(gold, r"\^([0-9])(?![0-9])", r"^{\1}")
    yield from _changed(gold, r"([0-9x)])\^\{([0-9]+)\}", r"\1^\2")
    yield from _changed(gold, r"([0-9x)])\^\{([0-9]+)\}", r"\1**\2")
    yield from _changed(gold, r"(?<![_^{0-9])\^2(?![0-9])", "²")


def _numbers(gold: str) -> Iterator[str]:
    if _PLAIN_INTEGER.fullmatch(gold):
        value = int(gold)
        yield from (
            f"{gold}.0",
            f"{gold}.00",
            rf"\mathbf{{{gold}}}",
            rf"\text{{{gold}}}",
            rf"\textbf{{{gold}}}",
            f"({gold})",
        )
        yield from (
            rf"\mathrm{{{gold}}}",
            f"{gold} units",
            rf"{gold}\text{{ cm}}",
            f"{gold} in^2",
            f"{gold} km/h",
            f"€{gold}",
        )
        yield from (
            rf"\${gold}",
            f"{gold} dollars",
            rf"{gold}\text{{ people}}",
            rf"{gold}\,\mathrm{{m/s^2}}",
            f"{gold} ft²",
        )
        yield from (
            f"{3 * value}/3",
            rf"\frac{{{2 * value}}}{{2}}",
            rf"{value}^1",
            f"{value - 7} + 7",
            rf"\frac{{{gold}}}{{1}}",
        )
        if abs(value) >= 1000:
            for separator in (",", "{,}", r"\,", r",\!", " ", r"\ ", "{\\,}", "~"):
                yield f"{value:,}".replace(",", separator)
    if re.fullmatch(r"-?[0-9]+\.[0-9]+", gold):
        yield from (f"{gold}0", rf"\mathbf{{{gold}}}", f"{gold} cm", rf"{gold}\text{{ miles}}", rf"\${gold}")
        digits = gold.partition(".")[2]
        sign, unsigned = ("-" if gold[0] == "-" else ""), gold.lstrip("-")
        yield rf"{sign}\frac{{{int(unsigned.replace('.', ''))}}}{{{10 ** len(digits)}}}"
        yield from _changed(gold, r"^(-?)0\.", r"\1.")
    if (
        re.fullmatch(r"[-+0-9\\a-z{}^!. ]+", gold)
        and "\\text" not in gold
        and not re.search(r"[=<>]|\\(?:pm|circ|neq|le|ge)", gold)
    ):
        yield f"x = {gold}"
        yield rf"x={gold}\,"
    yield from _changed(gold, r"^([0-9]+)\\frac\{([0-9])\}\{([0-9])\}$", r"\1 \2/\3")
    yield from _changed(gold, r"^([0-9]+)\\frac\{([0-9])\}\{([0-9])\}$", r"\1 + \\frac{\2}{\3}")
    yield from _changed(gold, r"^([0-9]+)_([0-9])$", r"\1_{\2}")
    yield from _changed(gold, r"^([0-9]+)_([0-9])$", r"\1")
    yield from _changed(gold, r"^([0-9]+)\\%$", r"\1")
    yield from _changed(gold, r"^([0-9]+)\\%$", r"\1 percent")
    yield from _changed(gold, r"^([0-9]+)\\%$", r"\\frac{\1}{100}")
    yield from _changed(gold, r"^\\\$([0-9.]+)$", r"\1")
    yield from _changed(gold, r"^\\\$([0-9.]+)$", r"\1 dollars")
    yield from _changed(gold, r"^\\\$([0-9.]+)$", r"\\text{\\$}\1")
    yield from _changed(gold, r"^([0-9]+)\^\\circ$", r"\1")
    yield from _changed(gold, r"^([0-9]+)\^\\circ$", r"\1\\text{ degrees}")


def _words(gold: str) -> Iterator[str]:
    if r"\text" not in gold:
        return
    yield _TEXT.sub(r"\1", gold)
    yield _TEXT.sub(r"\\mathrm{\1}", gold)
    yield _TEXT.sub(r"\\textbf{\1}", gold)
    yield _TEXT.sub(r"\\mbox{\1}", gold)
    yield _TEXT.sub(r"$\\text{\1}$", gold)
    yield from _changed(gold, r"^\\text\{\(([A-Z])\)\}$", r"\1")
    yield from _changed(gold, r"^([0-9]+)\\text\{ ([a-z ]+)\}$", r"\1")
    yield from _changed(gold, r"^([0-9]+)\\text\{ ([a-z ]+)\}$", r"\1 \\text{\2}")
    yield from _changed(gold, r"^([0-9]+)\\text\{ ([a-z ]+)\}$", r"\1~\\mathrm{\2}")
    yield from _changed(gold, "feet", "ft")
    yield from _changed(gold, "square inches", "in}^2\\\\text{")
    yield from _changed(gold, r"\\text\{ cm\}\^2", "\\\\text{ square centimeters}")
    yield from _changed(gold, "hours", "hr")
    yield from _changed(gold, "October 30", "30 October")
    yield from _changed(gold, "PM", "p.m.")
    yield from _changed(gold, "a.m.", "AM")
    if re.fullmatch(r"\\text\{[A-Za-z]+\}", gold) and len(gold) > 9:
        yield gold.lower()


def _collections(gold: str) -> Iterator[str]:
    listed = re.fullmatch(r"-?[0-9]+(?:, -?[0-9]+)+", gold)
    if listed:
        elements = gold.split(", ")
        backwards = elements[::-1]
        yield from (
            ", ".join(backwards),
            rf"\{{{gold}\}}",
            rf"\left\{{{', '.join(backwards)}\right\}}",
            gold.replace(" ", ""),
        )
        yield from (
            " and ".join(backwards),
            r"\text{ or }".join(elements),
            f"x = {gold}",
            " or ".join(f"x = {e}" for e in elements),
        )
        yield rf"{', '.join(elements[:-1])}, and {elements[-1]}"
        yield "; ".join(elements)
    yield from _replaced(gold, "pmatrix", "bmatrix")
    if "pmatrix" in gold:
        columns = gold.split(r"\\")[0].count("&") + 1
        array = gold.replace(r"\begin{pmatrix}", rf"\left(\begin{{array}}{{{'c' * columns}}}")
        yield array.replace(r"\end{pmatrix}", r"\end{array}\right)")
        yield gold.replace(r"\\", r"\\[4pt]").replace(r" \end", r" \\ \end")
    sides = gold.split(r" \cup ")
    if len(sides) == 2:
        yield rf"{sides[1]} \cup {sides[0]}"
    interval = re.fullmatch(r"([\[(])(-?[0-9]+), (-?[0-9]+)([\])])", gold)
    if interval:
        yield rf"x \in {gold}"
        low, high = "<" if interval[1] == "(" else r"\le", "<" if interval[4] == ")" else r"\leq"
        yield rf"{interval[2]} {low} x {high} {interval[3]}"
    yield from _changed(gold, r"^([0-9]+) \\pm (\\sqrt\{[0-9]+\})$", r"\1 + \2, \1 - \2")
    yield from _changed(gold, r"^([0-9]+) \\pm (\\sqrt\{[0-9]+\})$", r"x = \1 \\pm \2")
    yield from _changed(gold, r"^(-?[0-9]+) ([+-]) ([0-9]+)i$", r"\1 \2 \3\\,i")
    yield from _changed(gold, r"^(-?[0-9]+) \+ ([0-9]+)i$", r"\2i + \1")
    yield from _changed(gold, r"^(-?[0-9]+) \+ ([0-9]+\\sqrt\{[0-9]+\})$", r"\2 + \1")
    yield from _changed(gold, r"^\\\{1,2,3\\\}$", "3, 1, 2")
    yield from _changed(gold, r"^x > 3$", "3 < x")
    yield from _changed(gold, r"^y = 2x \+ 3$", "2x - y + 3 = 0")
    yield from _changed(gold, r"^x\^2 \+ 2x - 3$", "(x+3)(x-1)")


REWRITINGS: tuple[Rule, ...] = (_wrapped, _spaced, _fraction_forms, _signs, _numbers, _words, _collections)


def rewritten(gold: str) -> list[str]:
    """Other ways to write a right answer, itself first, each once."""
    return list(dict.fromkeys([gold, *(text for rule in REWRITINGS for text in rule(gold) if text)]))


# Wrong answers that look like it.


def _digits(gold: str) -> Iterator[str]:
    for match in re.finditer("[0-9]", gold):
        if gold[: match.start()].endswith((r"\sqrt[", r"^\circ")) or gold[match.start() - 1 : match.start()] == "_":
            continue
        digit = str((int(match[0]) + 1) % 10)
        if digit == "0" and not (match.start() and gold[match.start() - 1] in "0123456789."):
            digit = "8"
        yield gold[: match.start()] + digit + gold[match.end() :]


def _flipped(gold: str) -> Iterator[str]:
    if r"\text" in gold or gold in (r"\emptyset", r"\{0\}", "0") or "pm" in gold:
        return
    for match in re.finditer(r"(?<=[0-9a-zA-Z)}] )[-+](?= [0-9a-zA-Z(\\])", gold):
        yield f"{gold[: match.start()]}{'-' if match[0] == '+' else '+'}{gold[match.end() :]}"
    if re.match(r"[0-9\\]", gold) and not re.search(r"[-+=<>,]|\\(?:begin|left|%|\$|\{)", gold):
        yield f"-{gold}"
    if gold.startswith("-") and "," not in gold:
        yield gold[1:]
    for match in re.finditer(r"(?<=[(\[,] )-(?=[0-9])|(?<=[(\[,])-(?=[0-9])", gold):
        yield gold[: match.start()] + gold[match.end() :]


def _swapped(gold: str) -> Iterator[str]:
    yield from (
        text for text in _changed(gold, r"\\frac\{([^{}]+)\}\{([^{}]+)\}", r"\\frac{\2}{\1}") if "a}{b" not in gold
    )
    if re.fullmatch(r"-?[0-9]+\\sqrt\{[0-9]\}", gold):
        yield from (text for text in _changed(gold, r"([0-9]+)\\sqrt\{([0-9])\}", r"\2\\sqrt{\1}") if text != gold)


def _raised(gold: str) -> Iterator[str]:
    for step in (1, -1):

        def shifted(match: re.Match[str], step: int = step) -> str:
            return f"^{{{int(match[1]) + step}}}"

        text = re.sub(r"\^\{(-?[0-9]+)\}", shifted, gold, count=1)
        if text != gold:
            yield text
    if re.fullmatch(r"-?[2-9][0-9]*", gold):
        yield from (
            f"{gold}^2",
            f"{gold}!",
            f"{gold}/100",
            rf"\sqrt{{{gold.lstrip('-')}}}",
            f"{gold}0",
            f"{gold}.5",
            f"0.{gold.lstrip('-')}",
        )


def _bounded(gold: str) -> Iterator[str]:
    if re.search(r"[<>=]|\\(?:leq?|geq?|neq?|cup|in|text|begin|left|emptyset|\{)|^[(\[]|,", gold):
        return
    yield from (f"< {gold}", f"> {gold}", rf"\leq {gold}", rf"\geq {gold}", rf"\ne {gold}", f"≥ {gold}", rf"x < {gold}")
    yield from (
        f"at least {gold}",
        f"more than {gold}",
        f"{gold} or more",
        rf"x \le {gold}",
        rf"x \neq {gold}",
        f"≠ {gold}",
    )


def _unread(gold: str) -> Iterator[str]:
    if re.search(r"\\(?:text|begin|emptyset|%|\$|circ|infty)|_[0-9]|=|[<>]|neq|le|ge", gold) or re.match(
        r"[(\[]|.*,", gold
    ):
        return
    yield from (
        rf"{gold} + \sqrt3",
        rf"{gold} - \frac \pi7",
        rf"{gold} + 1",
        rf"{gold} \cdot \sqrt{{2}}",
        f"{gold}, 1234567",
    )
    yield from (
        rf"{gold} \text{{ or }} 987",
        rf"\frac \pi4 + {gold}",
        rf"2 \cdot ({gold})",
        rf"{gold} \pm 1",
        f"({gold}, {gold})",
    )


def _negated(gold: str) -> Iterator[str]:
    yield f"not {gold}"
    yield rf"\text{{not }}{gold}"
    yield from _changed(gold, r"^\\text\{", r"\\text{not ")
    if "," not in gold:
        yield f"It is not {gold}."


def _other_words(gold: str) -> Iterator[str]:
    others = {
        "even": "odd",
        "odd": "even",
        "east": "west",
        "Evelyn": "Debra",
        "Monday": "Tuesday",
        "October": "November",
    }
    others |= {
        "PM": "AM",
        "a.m.": "p.m.",
        "(C)": "(D)",
        "B,C": "B,D",
        "A,C,F": "A,C",
        "Yes": "No",
        "No": "Yes",
        "ellipse": "circle",
    }
    others |= {
        "feet": "inches",
        "miles": "kilometers",
        "hours": "minutes",
        "square inches": "cubic inches",
        "km/h": "mph",
    }
    others |= {"two lines": "two circles", " dollars": " cents", "dogs": "cats", "Sunday": "Saturday", "March": "May"}
    for old, new in others.items():
        yield from _replaced(gold, old, new)
    yield from _changed(gold, r"\\text\{ cm\}\^2", r"\\text{ cm}^3")


def _other_collections(gold: str) -> Iterator[str]:
    if re.fullmatch(r"-?[0-9]+(?:, -?[0-9]+)+", gold):
        elements = gold.split(", ")
        yield ", ".join(elements[1:])
        yield ", ".join([*elements, "61"])
        yield ", ".join([*elements[:-1], elements[0]]) if len(elements) > 2 else "61, 62"
    body = re.fullmatch(r"\\left\( (.*) \\right\)", gold)
    if body:
        elements = body[1].split(", ")
        yield f"({', '.join(elements[1:])})"
        yield f"({', '.join([*elements, '1'])})"
        if elements != elements[::-1]:
            yield f"({', '.join(elements[::-1])})"
    interval = re.fullmatch(r"([\[(])(.*)([\])])", gold)
    if interval and r"\cup" not in gold and "x" not in gold:
        yield f"{'[' if interval[1] == '(' else '('}{interval[2]}{interval[3]}"
        yield f"{interval[1]}{interval[2]}{')' if interval[3] == ']' else ']'}"
        yield interval[2].split(", ")[0]
    sides = gold.split(r" \cup ")
    if len(sides) == 2:
        yield from (sides[0], sides[1], rf"{sides[0]} \cap {sides[1]}")
    if "pmatrix" in gold:
        yield gold.replace("pmatrix", "vmatrix")
        if r" \\ " in gold:
            yield re.sub(r" \\\\ [^\\]* \\end", r" \\end", gold)
    yield from _changed(gold, r"([0-9]) \\pm", r"\1 +")
    for old, new in (("<", ">"), (r"\le ", r"\ge "), (r"\leq", "<"), (">", r"\ge"), (r"\neq", "="), (r"\ge ", ">")):
        yield from _replaced(gold, old, new)
    yield from _changed(gold, r"_([789])$", lambda match: f"_{int(match[1]) - 1}")  # type: ignore[arg-type]
    yield from _changed(gold, r"\\sin", r"\\cos")
    yield from _changed(gold, r"\\log_2", r"\\log_3")
    yield from _changed(gold, r"x", "z") if "=" not in gold and "\\" not in gold and "x" in gold else ()


NEAR_MISSES: tuple[Rule, ...] = (
    *(_digits, _flipped, _swapped, _raised, _bounded, _unread, _negated, _other_words, _other_collections),
)


def missed(gold: str) -> list[str]:
    """Wrong answers that look like a right one, each once."""
    right = set(rewritten(gold))
    texts = (text for rule in NEAR_MISSES for text in rule(gold) if text)
    return [text for text in dict.fromkeys(texts) if text not in right]
