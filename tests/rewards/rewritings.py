"""Rules that write a right answer in other ways.

They are functions of the text alone, and say nothing where they do not apply.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

Rule = Callable[[str], Iterator[str]]

_PLAIN_INTEGER = re.compile(r"-?[0-9]+")
_SIMPLE_FRACTION = re.compile(r"\\frac\{([0-9]+)\}\{([0-9]+)\}")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")


def replaced(gold: str, old: str, new: str) -> Iterator[str]:
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
        yield from replaced(gold, r"\frac", rf"\{form}")
    if re.fullmatch(rf"-?{_SIMPLE_FRACTION.pattern}", gold):
        yield _SIMPLE_FRACTION.sub(r"\1/\2", gold)
        yield _SIMPLE_FRACTION.sub(r"\1 / \2", gold)
        yield _SIMPLE_FRACTION.sub(r"{\1}/{\2}", gold)
        yield _SIMPLE_FRACTION.sub(r"\\frac{\1}{\2}\\text{ units}", gold)
        if gold[0] == "-":
            yield _SIMPLE_FRACTION.sub(r"\\frac{-\1}{\2}", gold[1:])
            yield _SIMPLE_FRACTION.sub(r"\\frac{\1}{-\2}", gold[1:])
        yield _SIMPLE_FRACTION.sub(lambda match: rf"\frac{{{3 * int(match[1])}}}{{{3 * int(match[2])}}}", gold)
    yield from changed(gold, r"\\frac\{([0-9])\}\{([0-9])\}", r"\\frac\1\2")
    yield from changed(gold, r"\\frac\{([0-9])\}\{([0-9])\}", r"\\frac \1 \2")
    yield from changed(gold, r"\\frac\{([0-9])\}", r"\\frac\1")
    yield from changed(gold, r"\\frac\{(\\pi)\}\{([0-9])\}", r"\\frac \1\2")
    yield from (
        changed(gold, r"\\frac\{([^{}]*)\\pi\}\{([0-9]+)\}", r"\\frac{\1}{\2}\\pi") if r"\frac{\pi}" not in gold else ()
    )
    yield from changed(gold, r"^(-?)\\frac\{(\\sqrt\{[0-9]\})\}\{([0-9])\}$", r"\1\2/\3")


def changed(gold: str, pattern: str, replacement: str) -> Iterator[str]:
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
    yield from replaced(gold, r"\emptyset", r"\varnothing")
    yield from replaced(gold, r"\emptyset", r"\{\}")
    if "-" in gold and r"\text" not in gold:
        yield gold.replace("-", "−")
    if r"\left" not in gold and re.match(r"[(\[].*[)\]]$", gold) and r"\cup" not in gold:
        yield rf"\left{gold[:-1]}\right{gold[-1]}"
    yield from changed(gold, r"\\sqrt\{([0-9])\}", r"\\sqrt\1")
    yield from changed(gold, r"\\sqrt\{([0-9]+)\}", r"√\1")
    yield from changed(gold, r"(?<![0-9])\\sqrt\{([0-9]+)\}", r"sqrt(\1)")
    yield from changed(gold, r"([0-9])\\sqrt\{([0-9]+)\}", r"\1 \\cdot \\sqrt{\2}")
    yield from changed(gold, r"([0-9])\\sqrt\{([0-9]+)\}", r"\1 sqrt(\2)")
    yield from changed(gold, r"\^([0-9])(?![0-9])", r"^{\1}")
    yield from changed(gold, r"([0-9x)])\^\{([0-9]+)\}", r"\1^\2")
    yield from changed(gold, r"([0-9x)])\^\{([0-9]+)\}", r"\1**\2")
    yield from changed(gold, r"(?<![_^{0-9])\^2(?![0-9])", "²")


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
        yield from changed(gold, r"^(-?)0\.", r"\1.")
    if (
        re.fullmatch(r"[-+0-9\\a-z{}^!. ]+", gold)
        and "\\text" not in gold
        and not re.search(r"[=<>]|\\(?:pm|circ|neq|le|ge)", gold)
    ):
        yield f"x = {gold}"
        yield rf"x={gold}\,"
    yield from changed(gold, r"^([0-9]+)\\frac\{([0-9])\}\{([0-9])\}$", r"\1 \2/\3")
    yield from changed(gold, r"^([0-9]+)\\frac\{([0-9])\}\{([0-9])\}$", r"\1 + \\frac{\2}{\3}")
    yield from changed(gold, r"^([0-9]+)_([0-9])$", r"\1_{\2}")
    yield from changed(gold, r"^([0-9]+)_([0-9])$", r"\1")
    yield from changed(gold, r"^([0-9]+)\\%$", r"\1")
    yield from changed(gold, r"^([0-9]+)\\%$", r"\1 percent")
    yield from changed(gold, r"^([0-9]+)\\%$", r"\\frac{\1}{100}")
    yield from changed(gold, r"^\\\$([0-9.]+)$", r"\1")
    yield from changed(gold, r"^\\\$([0-9.]+)$", r"\1 dollars")
    yield from changed(gold, r"^\\\$([0-9.]+)$", r"\\text{\\$}\1")
    yield from changed(gold, r"^([0-9]+)\^\\circ$", r"\1")
    yield from changed(gold, r"^([0-9]+)\^\\circ$", r"\1\\text{ degrees}")


def _words(gold: str) -> Iterator[str]:
    if r"\text" not in gold:
        return
    yield _TEXT.sub(r"\1", gold)
    yield _TEXT.sub(r"\\mathrm{\1}", gold)
    yield _TEXT.sub(r"\\textbf{\1}", gold)
    yield _TEXT.sub(r"\\mbox{\1}", gold)
    yield _TEXT.sub(r"$\\text{\1}$", gold)
    yield from changed(gold, r"^\\text\{\(([A-Z])\)\}$", r"\1")
    yield from changed(gold, r"^([0-9]+)\\text\{ ([a-z ]+)\}$", r"\1")
    yield from changed(gold, r"^([0-9]+)\\text\{ ([a-z ]+)\}$", r"\1 \\text{\2}")
    yield from changed(gold, r"^([0-9]+)\\text\{ ([a-z ]+)\}$", r"\1~\\mathrm{\2}")
    yield from changed(gold, "feet", "ft")
    yield from changed(gold, "square inches", "in}^2\\\\text{")
    yield from changed(gold, r"\\text\{ cm\}\^2", "\\\\text{ square centimeters}")
    yield from changed(gold, "hours", "hr")
    yield from changed(gold, "October 30", "30 October")
    yield from changed(gold, "PM", "p.m.")
    yield from changed(gold, "a.m.", "AM")
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
    yield from replaced(gold, "pmatrix", "bmatrix")
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
    yield from changed(gold, r"^([0-9]+) \\pm (\\sqrt\{[0-9]+\})$", r"\1 + \2, \1 - \2")
    yield from changed(gold, r"^([0-9]+) \\pm (\\sqrt\{[0-9]+\})$", r"x = \1 \\pm \2")
    yield from changed(gold, r"^(-?[0-9]+) ([+-]) ([0-9]+)i$", r"\1 \2 \3\\,i")
    yield from changed(gold, r"^(-?[0-9]+) \+ ([0-9]+)i$", r"\2i + \1")
    yield from changed(gold, r"^(-?[0-9]+) \+ ([0-9]+\\sqrt\{[0-9]+\})$", r"\2 + \1")
    yield from changed(gold, r"^\\\{1,2,3\\\}$", "3, 1, 2")
    yield from changed(gold, r"^x > 3$", "3 < x")
    yield from changed(gold, r"^y = 2x \+ 3$", "2x - y + 3 = 0")
    yield from changed(gold, r"^x\^2 \+ 2x - 3$", "(x+3)(x-1)")


REWRITINGS: tuple[Rule, ...] = (_wrapped, _spaced, _fraction_forms, _signs, _numbers, _words, _collections)


def rewritten(gold: str) -> list[str]:
    """Other ways to write a right answer, itself first, each once."""
    return list(dict.fromkeys([gold, *(text for rule in REWRITINGS for text in rule(gold) if text)]))
