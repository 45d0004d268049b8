"""Arithmetic of plain numbers, read by a small parser with exact rationals.

Nothing is evaluated as code. Grammar, after LaTeX's and Unicode's signs are written plainly:

    expression = term (("+" | "-") term)*
    term       = factor (("*" | "/") factor)*
    factor     = "-" factor | number | "(" expression ")" | "[" expression "]"
               | "\\frac" "{" expression "}" "{" expression "}"
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

LONGEST_EXPRESSION = 300  # characters of an expression
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
    if len(text) > LONGEST_EXPRESSION:
        return []
    try:
        parts = [_Parser(part).whole() for part in _plain(text).split("=")]
    except _SyntaxError:
        return []
    return parts if all(part.value == parts[0].value for part in parts) else []


def parse_expression(text: str) -> Expression | None:
    """The first part of `parse_equation`, None where there is none."""
    return next(iter(parse_equation(text)), None)


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
