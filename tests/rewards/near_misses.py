"""Rules that make wrong answers that look like a right one: functions of the text alone."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.rewards.rewritings import Rule, changed, replaced, rewritten


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
        text for text in changed(gold, r"\\frac\{([^{}]+)\}\{([^{}]+)\}", r"\\frac{\2}{\1}") if "a}{b" not in gold
    )
    if re.fullmatch(r"-?[0-9]+\\sqrt\{[0-9]\}", gold):
        yield from (text for text in changed(gold, r"([0-9]+)\\sqrt\{([0-9])\}", r"\2\\sqrt{\1}") if text != gold)


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
    yield from changed(gold, r"^\\text\{", r"\\text{not ")
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
        yield from replaced(gold, old, new)
    yield from changed(gold, r"\\text\{ cm\}\^2", r"\\text{ cm}^3")


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
    yield from changed(gold, r"([0-9]) \\pm", r"\1 +")
    for old, new in (("<", ">"), (r"\le ", r"\ge "), (r"\leq", "<"), (">", r"\ge"), (r"\neq", "="), (r"\ge ", ">")):
        yield from replaced(gold, old, new)
    yield from changed(gold, r"_([789])$", lambda match: f"_{int(match[1]) - 1}")  # type: ignore[arg-type]
    yield from changed(gold, r"\\sin", r"\\cos")
    yield from changed(gold, r"\\log_2", r"\\log_3")
    yield from changed(gold, r"x", "z") if "=" not in gold and "\\" not in gold and "x" in gold else ()


NEAR_MISSES: tuple[Rule, ...] = (
    *(_digits, _flipped, _swapped, _raised, _bounded, _unread, _negated, _other_words, _other_collections),
)


def missed(gold: str) -> list[str]:
    """Wrong answers that look like a right one, each once."""
    right = set(rewritten(gold))
    texts = (text for rule in NEAR_MISSES for text in rule(gold) if text)
    return [text for text in dict.fromkeys(texts) if text not in right]
