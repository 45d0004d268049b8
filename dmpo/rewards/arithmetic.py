"""Countdown: an expression of given numbers, read by a small parser with exact rationals, and the reward for it.

Nothing is evaluated as code. Grammar, after LaTeX's and Unicode's signs are written plainly:

    expression = term (("+" | "-") term)*
    term       = factor (("*" | "/") factor)*
    factor     = "-" factor | number | "(" expression ")" | "[" expression "]"
               | "\\frac" "{" expression "}" "{" expression "}"
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from .answers import bare_answer, read_answer

USED_WEIGHT = 0.1
SOLVED_WEIGHT = 1.0

_LONGEST = 300  # characters of an expression
_DEEPEST = 40  # nested parentheses and signs
_TOKENS = re.compile(r"\s*(?:([0-9]+(?:\.[0-9]+)?)|(\\frac|[-+*/(){}[\]]))")
_SIGNS = str.maketrans(
    dict.fromkeys("×·∙⋅∗•✕✖⨯＊", "*")
    | dict.fromkeys("÷∕⁄➗／", "/")
    | dict.fromkeys("−–﹣－➖", "-")
    # A sign may be followed by the mark that asks for its picture.
    | dict.fromkeys("＋➕", "+")
    | {"（": "(", "）": ")", "\ufe0f": None}
)
_TIMES = re.compile(r"(?<=[0-9)\]])(\s*)[xX](?=\s*[-(\[0-9])")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_MARKED = re.compile(r"(`{1,3}|\*{1,3})(.*)\1", re.DOTALL)
_LATEX = re.compile(r"\\(times|cdot|ast|div|left|right|displaystyle|[,;: ()\[\]$])|\$|\\[dt](?=frac)")


@dataclass(frozen=True)
class Expression:
    """An expression that was read: its exact value (None where it divides by 0) and its numbers as written."""

    value: Fraction | None
    numbers: tuple[str, ...]


def parse_equation(text: str) -> list[Expression]:
    """The expressions of a chain `a = b = …`, or the one that a whole text is; [] where a part is none or its value is
    another, and for a text too long or too deep.

    `+ − × ÷` in any of their signs, `x` between numbers, parentheses, brackets, the unary minus, numbers of ASCII
    digits; no power, no unary plus. Marks of bold or code around the text and a final period are no part of it.
    """
    if len(text) > _LONGEST:
        return []
    try:
        parts = [_Parser(part).whole() for part in _plain(text).split("=")]
    except _SyntaxError:
        return []
    return parts if all(part.value == parts[0].value for part in parts) else []


def parse_expression(text: str) -> Expression | None:
    """The first part of `parse_equation`, None where there is none."""
    return next(iter(parse_equation(text)), None)


def given_numbers(column: Any) -> list[str]:
    """The numbers of one puzzle as an expression has to write them, from a list or tensor, or a text such as "3, 5, 2".

    Raises:
        ValueError: it is something else, or none.
    """
    column = column.tolist() if hasattr(column, "tolist") else column
    try:
        given = column.strip("[]() \n").replace(",", " ").split() if isinstance(column, str) else list(column)
        texts = [_text(number).removesuffix(".0") for number in given]
    except (TypeError, ValueError):
        texts = []
    if not texts or not all(_NUMBER.fullmatch(text) for text in texts):
        raise ValueError(f"column numbers must hold the numbers of each puzzle, as [3, 5, 2], got {_shown(column)}")
    return texts


def target_value(column: Any) -> Fraction:
    """The target of one puzzle. Raises ValueError where it is no number written plainly, as 13, "13" or 13.0."""
    try:
        text = _text(column)
    except ValueError:
        text = ""
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"column target must hold a number, as 13, got {_shown(column)}")
    return Fraction(text)


def uses_each_once(expression: Expression, given: Sequence[str]) -> bool:
    """Whether the numbers of an expression, as written, are those of `given_numbers`, each exactly once."""
    return Counter(expression.numbers) == Counter(given)


def countdown_answer(completion: str) -> str | None:
    r"""The text of the expression: in the last <answer>, else the last \boxed, else a completion of one short line."""
    answer = read_answer(completion)
    if answer is None:
        answer = bare_answer(completion, _LONGEST)
    return answer if answer and len(answer) <= _LONGEST else None


def countdown_value(completion: str, numbers: Any) -> Fraction | None:
    """The value of a completion's expression, None unless it is one of all the given numbers, each used once.

    Of a chain of equal expressions (`3*5-2 = 15-2 = 13`) one has to use them. For `numbers` see `given_numbers`.
    """
    given = given_numbers(numbers)
    answer = countdown_answer(completion)
    parts = [] if answer is None else parse_equation(answer)
    return next((part.value for part in parts if uses_each_once(part, given)), None)


def countdown_solved(completion: str, numbers: Any, target: Any) -> bool:
    """Whether a completion makes the target of all the given numbers."""
    return countdown_value(completion, numbers) == target_value(target)


def countdown(completions: list[str], numbers: list[Any], target: list[Any], **_: Any) -> list[float]:
    """SOLVED_WEIGHT for an expression that makes the target, USED_WEIGHT for one that does not, else 0.

    An expression counts only if it uses each given number exactly once. Weights: d1 (arXiv 2504.12216, appendix) and
    TinyZero.

    Raises:
        ValueError: a column `numbers` or `target` that is no such thing, see `given_numbers` and `target_value`.
    """
    scores = []
    for text, given, wanted in zip(completions, numbers, target, strict=True):
        value, goal = countdown_value(text, given), target_value(wanted)
        scores.append(SOLVED_WEIGHT if value == goal else USED_WEIGHT if value is not None else 0.0)
    return scores


def _text(number: Any) -> str:
    return str(number.item() if hasattr(number, "item") else number).strip()


def _shown(value: Any) -> str:
    try:
        return repr(value)[:80]
    except ValueError:  # an integer of more digits than Python writes
        return f"{type(value).__name__} of too many digits"


class _SyntaxError(Exception):
    pass


class _Parser:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        self.numbers: list[str] = []
        self.next = self.depth = 0
        end = len(text.rstrip())
        place = 0
        while place < end:
            found = _TOKENS.match(text, place)
            if not found:
                raise _SyntaxError
            self.tokens.append(found[1] or found[2])
            place = found.end()

    def whole(self) -> Expression:
        value = self.expression()
        if self.next != len(self.tokens):
            raise _SyntaxError
        return Expression(value, tuple(self.numbers))

    def expression(self) -> Fraction | None:
        value = self.term()
        while self.peek() in ("+", "-"):
            sign, right = self.take(), self.term()
            value = None if value is None or right is None else value + right if sign == "+" else value - right
        return value

    def term(self) -> Fraction | None:
        value = self.factor()
        while self.peek() in ("*", "/"):
            sign, right = self.take(), self.factor()
            value = _product(value, right) if sign == "*" else _ratio(value, right)
        return value

    def factor(self) -> Fraction | None:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise _SyntaxError
        token = self.take()
        if token == "-":
            inner = self.factor()
            value = None if inner is None else -inner
        elif token in ("(", "["):
            value = self.expression()
            self.expect(")" if token == "(" else "]")
        elif token == "\\frac":
            value = _ratio(self.braced(), self.braced())
        elif token and token[0] in "0123456789":
            self.numbers.append(token)
            value = Fraction(token)
        else:
            raise _SyntaxError
        self.depth -= 1
        return value

    def braced(self) -> Fraction | None:
        self.expect("{")
        value = self.expression()
        self.expect("}")
        return value

    def peek(self) -> str | None:
        return self.tokens[self.next] if self.next < len(self.tokens) else None

    def take(self) -> str | None:
        token = self.peek()
        self.next += 1
        return token

    def expect(self, wanted: str) -> None:
        if self.take() != wanted:
            raise _SyntaxError


def _product(value: Fraction | None, factor: Fraction | None) -> Fraction | None:
    return None if value is None or factor is None else value * factor


def _ratio(value: Fraction | None, divisor: Fraction | None) -> Fraction | None:
    return None if value is None or not divisor else value / divisor


def _plain(text: str) -> str:
    for _ in range(3):  # bold, code and the period in any order
        text = text.strip().removesuffix(".")
        marked = _MARKED.fullmatch(text)
        text = marked[2] if marked else text
    words = {"times": "*", "cdot": "*", "ast": "*", "div": "/"}
    text = _LATEX.sub(lambda found: "\\" if found[0] in ("\\d", "\\t") else words.get(found[1] or "", " "), text)
    return _TIMES.sub(r"\1*", text.translate(_SIGNS)).rstrip().removesuffix(".")
