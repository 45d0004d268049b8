r"""Whether an answer in LaTeX equals the right answer, where this can be decided without computer algebra.

An answer has one or more readings: `1,234` is a list, or a number with a thousands separator. The answer is right if
one of its readings equals a reading of the right answer. A reading covers the whole text. It leaves out only words
without content ("The answer is 5") and units beside numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from .comparison import same, same_unordered
from .expressions import Node, UndecidedError, UnreadError
from .latex_parser import parse
from .latex_text import FONT_COMMAND, plain_latex, without_fonts, words
from .units import same_unit, split_unit

LONGEST = 600
"""The most characters of an answer; a longer answer is wrong."""

_MOST_ITEMS = 60
_THOUSANDS = re.compile(r"(?<![0-9.,_^])([0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3})(?![0-9]|,[0-9])")
_MIXED = re.compile(r"(?<![0-9.)}])([0-9]+) ([0-9]+) ?/ ?([0-9]+)(?![0-9.])")
_TIMES = re.compile(r"(?<=[0-9]) ?[xX] ?(?=[0-9])")
_SCIENTIFIC = re.compile(r"(?<![A-Za-z0-9.\\])([0-9]+(?:\.[0-9]+)?)[eE]([-+]?[0-9]{1,3})(?![0-9A-Za-z.])")
_PLUS_MINUS = re.compile(r"\\(?:pm|mp)(?![A-Za-z])|\+/-")
_NUMBER_NAMES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_NUMBER_WORDS = {name: str(value) for value, name in enumerate(_NUMBER_NAMES.split())}
_HOUR = re.compile(r"^([0-9]{1,2}):00(?= ?(?:$|[ap]\.? ?m\b\.?|\\text ?\{ ?[ap]\.?m))", re.IGNORECASE)
_MINUS = re.compile(
    r"^(?:\\text ?\{ ?)?(?:negative|minus)(?: ?\})? (?=[0-9\\.])|^\\text ?\{ ?(?:negative|minus) ?\}(?=[0-9\\.])", re.I
)
_TO = re.compile(r"(?<=[0-9]) ?(?:to|\\text ?\{ ?to ?\}) ?(?=[0-9])")
_LISTED_WORDS = re.compile(r"\\(text|textbf|textit|mathrm|mathbf|mbox|textrm) ?\{([^{}]*)\}")
_LED = re.compile(
    r"^(?:so|thus|hence|therefore|then|and|finally|answer|final answer|the answer|equals|option|choice)\b"
    r" ?[,:]? ?(?=\S)",
    re.IGNORECASE,
)
_VERB = re.compile(r"(?<![A-Za-z\\])(?:is|are|was|equals|be)(?: equal to)?(?![A-Za-z])|:", re.IGNORECASE)
_INTRODUCTION = re.compile(r"[A-Za-z][A-Za-z ,'\\(){}^_*:]{0,120}")
_OPENING = frozenset(("(", "[", "{", r"\{", r"\begin", r"\langle", r"\lfloor", r"\lceil"))
_CLOSING = frozenset((")", "]", "}", r"\}", r"\end", r"\rangle", r"\rfloor", r"\rceil"))
_PIECE = re.compile(r"\\[A-Za-z]+|\\.|[A-Za-z]+|.", re.DOTALL)
_SEPARATOR_WORD = re.compile(
    r"\\(?:text|textrm|mbox|mathrm|hbox|textbf|quad)? ?\{? ?,? ?\b(?:and|or)\b ?,? ?\}|\\(?:land|lor)(?![A-Za-z])",
    re.IGNORECASE,
)
_AND = re.compile(r"(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])", re.IGNORECASE)
_NEGATION = re.compile(
    r"(?<![A-Za-z])(?:not|no|never|none|isn'?t|aren'?t|cannot|false|except|without)(?![A-Za-z])|\\neg", re.I
)
_RELATION = re.compile(r"[<>]|\\(?:le|ge|ne|notin)(?![A-Za-z])")
_BOUND_WORD = re.compile(
    r"(?<![A-Za-z])(?:(?:at )?(?:least|most)|(?:more|less|fewer|greater|larger|smaller|bigger) than|"
    r"under|over|above|below|up to|"
    r"or (?:more|less|fewer|greater)|about|approximately|roughly|around|nearly|almost)(?![A-Za-z])",
    re.IGNORECASE,
)
_PHRASE = re.compile(r"(?<![A-Za-z\\])(?!matrix|array|cases)[A-Za-z]{4,}")


@dataclass(frozen=True)
class Item:
    """One element of an answer: its expression and the unit beside it."""

    node: Node
    unit: Counter[str] | None = None


def decide(answer: str, gold: str) -> bool | None:
    """Whether an answer is right; None if only computer algebra can decide (see `math_reward`).

    Time and memory are bounded, and no text makes it raise.
    """
    if not answer.strip() or len(answer) > LONGEST or len(gold) > LONGEST:
        return False
    answer, gold = plain_latex(answer), plain_latex(gold)
    if not answer or len(answer) > 3 * LONGEST or len(gold) > 3 * LONGEST:
        return False
    try:
        return _decide(answer, gold)
    except RecursionError:
        return False


def _decide(answer: str, gold: str) -> bool | None:
    texts = _without_introduction(answer), gold
    answer_words, gold_words = words(texts[0]), words(texts[1])
    answer_readings, gold_readings = readings(texts[0]), readings(texts[1])
    if not answer_readings and not gold_readings and answer_words == gold_words != "":
        return True
    if answer_readings and gold_readings:
        if any(_same_items(a, b) for a, b in product(answer_readings, gold_readings)):
            return True
        return answer_words == gold_words and (_is_words(gold) or _is_words(answer))
    if answer_words and (answer_words == gold_words or words(answer) == gold_words):
        return True
    for pattern in (_NEGATION, _RELATION, _BOUND_WORD):
        if len(pattern.findall(answer)) > len(pattern.findall(gold)):
            return False
    unparsed = [text for text, parsed in zip(texts, (answer_readings, gold_readings), strict=True) if not parsed]
    return False if any(_PHRASE.search(text) for text in unparsed) else None


@lru_cache(maxsize=1024)  # so the right answer of a group of completions is parsed once
def readings(text: str) -> list[list[Item]]:
    """The readings of a plain LaTeX text, each a list of items; [] if the text has none."""
    text = _MINUS.sub("-", _NUMBER_WORDS.get(text.lower(), text))
    text = _HOUR.sub(r"\1", _TO.sub(":", _LISTED_WORDS.sub(_listed, text)))
    text = _TIMES.sub(r" \\times ", text)
    text = _MIXED.sub(lambda m: rf"({m[1]}+{m[2]}/{m[3]})" if 0 < int(m[2]) < int(m[3]) else m[0], text)
    variants = [text]
    if _THOUSANDS.search(text):
        variants.append(_THOUSANDS.sub(lambda match: match[1].replace(",", ""), text))
    if _SCIENTIFIC.search(text):
        variants.append(_SCIENTIFIC.sub(r"(\1 \\cdot 10^{\2})", text))
    options = [
        (variant, tight, units)
        for variant in variants
        for tight in ((False, True) if "/" in text else (False,))
        for units in (True, False)
    ]
    result: list[list[Item]] = []
    for variant, tight, units in options:
        try:
            items = _items(variant, tight, units)
        except (UnreadError, RecursionError):
            continue
        if items not in result:
            result.append(items)
    return result


def _listed(match: re.Match[str]) -> str:
    r"""\text{B and C} as \text{B} and \text{C}."""
    pieces = re.split(r"(\s(?:and|or)\s|^(?:and|or)\s|\s(?:and|or)$|^(?:and|or)$|[,;])", match[2])
    if len(pieces) == 1:
        return match[0]
    rewritten = [
        f" {piece.strip()} " if index % 2 else f"\\{match[1]}{{{piece}}}" if piece.strip() else ""
        for index, piece in enumerate(pieces)
    ]
    return "".join(rewritten)


def _without_introduction(text: str) -> str:
    """An answer without introductory words ("So the total is")."""
    bare = without_fonts(text).strip() if FONT_COMMAND.match(text) else text
    if bare != text and (_LED.match(bare) or _VERB.search(bare)):
        text = bare
    for _ in range(3):
        led = _LED.match(text)
        text = text[led.end() :] if led else text
    for verb in list(_VERB.finditer(text[:200]))[::-1]:
        before = text[: verb.start()]
        is_introduction = (
            (not before or _INTRODUCTION.fullmatch(before))
            and not _NEGATION.search(before)
            and not _BOUND_WORD.search(before)
        )
        if is_introduction and text[verb.end() :].strip():
            return text[verb.end() :].strip(" :")
    return text


def _is_words(text: str) -> bool:
    """Whether a text has words, and not only symbols side by side (AB is not ab)."""
    return bool(FONT_COMMAND.search(text)) or re.search(r"(?<![\\A-Za-z])[A-Za-z]{4}", text) is not None


def _items(text: str, tight: bool, units: bool) -> list[Item]:
    result: list[Item] = []
    for piece in split(text):
        for variant in _signs(piece):
            result.extend(_item(variant, tight, units))
    if not result or len(result) > _MOST_ITEMS:
        raise UnreadError
    return result


def _item(text: str, tight: bool, units: bool) -> list[Item]:
    value, unit = split_unit(text) if units else (text, None)
    if unit is not None:
        try:
            return [_with_unit(parse(value, tight=tight), unit)]
        except UnreadError:
            pass
    node = parse(text, tight=tight)
    return [Item(argument) for argument in node.args] if node.op == "list" else [Item(node)]


def _with_unit(node: Node, unit: Counter[str]) -> Item:
    if unit == Counter({"percent": 1}):
        return Item(Node("percent", (node,)))
    if unit == Counter({"degree": 1}):
        return Item(Node("degree", (node,)))
    return Item(node, unit or None)


def split(text: str) -> list[str]:
    """The elements of a list. Commas, semicolons, "and" and "or" outside of brackets separate them."""
    pieces: list[str] = []
    depth, start, position = 0, 0, 0
    bounds: list[tuple[int, int]] = []
    while position < len(text):
        if depth == 0:
            word = _SEPARATOR_WORD.match(text, position) or _AND.match(text, position)
            if word:
                bounds.append(word.span())
                position = word.end()
                continue
        match = _PIECE.match(text, position)
        sign = match[0] if match else text[position]
        if sign in _OPENING:
            depth += 1
        elif sign in _CLOSING:
            depth = max(0, depth - 1)
        elif depth == 0 and sign in (",", ";"):
            bounds.append((position, position + 1))
        position += len(sign)
    for left, right in bounds:
        pieces.append(text[start:left])
        start = right
    pieces.append(text[start:])
    pieces = [piece.strip() for piece in pieces]
    filled = [piece for piece in pieces if piece]
    if len(filled) < len(pieces) and not (pieces[0] and pieces[-1]):
        raise UnreadError  # an empty element is allowed between a comma and the "and" after it, not at an end
    affirmed = [piece for piece in filled if not re.match(r"(?:\\text ?\{ ?)?not\b", piece)]
    if not affirmed:
        raise UnreadError
    return affirmed


def _signs(text: str) -> list[str]:
    r"""The text with + in place of \pm, and the text with -; a text without \pm alone."""
    if not _PLUS_MINUS.search(text):
        return [text]
    text = text.replace("+/-", r"\pm ")
    if len(re.findall(r"\\pm(?![A-Za-z])", text)) > 2:
        raise UnreadError
    return [
        re.sub(r"\\pm(?![A-Za-z])", plus, re.sub(r"\\mp(?![A-Za-z])", minus, text)).strip().removeprefix("+")
        for plus, minus in ("+-", "-+")
    ]


def _same_items(answers: list[Item], golds: list[Item]) -> bool:
    try:
        if len(answers) == len(golds) == 1:
            return _units_agree(answers, golds) and same(answers[0].node, golds[0].node)
        if not _units_agree(answers, golds):
            return False
        answer_nodes, gold_nodes = [item.node for item in answers], [item.node for item in golds]
        if len(answer_nodes) > 1 and len(gold_nodes) > 1:
            return same_unordered(answer_nodes, gold_nodes)
        listed = [nodes[0] if len(nodes) == 1 else Node("list", tuple(nodes)) for nodes in (answer_nodes, gold_nodes)]
        return same(listed[0], listed[1])
    except (UndecidedError, RecursionError):
        return False


def _unit(item: Item) -> Counter[str] | None:
    """The unit of an item; degrees and per cent count as units."""
    return Counter({item.node.op: 1}) if not item.unit and item.node.op in ("percent", "degree") else item.unit


def _units_agree(answers: list[Item], golds: list[Item]) -> bool:
    if any((_unit(item) or Counter()).keys() & {"am", "pm"} for item in golds):
        return [_unit(item) for item in answers] == [_unit(item) for item in golds]
    units = [unit for unit in map(_unit, (*answers, *golds)) if unit]
    return all(same_unit(units[0], unit) for unit in units)
