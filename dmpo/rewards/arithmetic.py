"""A small parser of plain arithmetic, which computes with exact rationals.

No text is evaluated as code. The signs of LaTeX and Unicode are first replaced by plain ones. Then the grammar is:

    expression = term (("+" | "-") term)*
    term       = factor (("*" | "/") factor)*
    factor     = "-" factor | number | "(" expression ")" | "[" expression "]"
               | "\\frac" "{" expression "}" "{" expression "}"
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

LONGEST_EXPRESSION = 300  # characters
_DEEPEST = 40  # levels of nested parentheses and signs
_TOKENS = re.compile(r"\s*(?:([0-9]+(?:\.[0-9]+)?)|(\\frac|[-+*/(){}[\]]))")
_SIGNS = str.maketrans(
    dict.fromkeys("×·∙⋅∗•✕✖⨯＊", "*")
    | dict.fromkeys("÷∕⁄➗／", "/")
    | dict.fromkeys("−–﹣－➖", "-")
    # U+FE0F may follow a sign: it asks for the sign's emoji form, so it is dropped.
    | dict.fromkeys("＋➕", "+")
    | {"（": "(", "）": ")", "\ufe0f": None}
)
_TIMES = re.compile(r"(?<=[0-9)\]])(\s*)[xX](?=\s*[-(\[0-9])")
_MARKED = re.compile(r"(`{1,3}|\*{1,3})(.*)\1", re.DOTALL)
_LATEX = re.compile(r"\\(times|cdot|ast|div|left|right|displaystyle|[,;: ()\[\]$])|\$|\\[dt](?=frac)")


@dataclass(frozen=True)
class Expression:
    """A parsed expression: its exact value (None if it divides by 0) and its numbers as they are written."""

    value: Fraction | None
    numbers: tuple[str, ...]


def parse_equation(text: str) -> list[Expression]:
    """The expressions of a chain `a = b = …`; a text without `=` has one expression.

    The result is [] if a side of the chain is no expression, if two sides have different values, or if the text is too
    long or too deeply nested. The grammar has `+ − × ÷` in any of their signs, `x` between numbers, parentheses,
    brackets, the unary minus, and numbers of ASCII digits. It has no power and no unary plus. Marks of bold or code
    around the text are ignored, and so is a final period.
    """
    if len(text) > LONGEST_EXPRESSION:
        return []
    try:
        sides = [_Parser(side).whole() for side in _plain(text).split("=")]
    except _SyntaxError:
        return []
    return sides if all(side.value == sides[0].value for side in sides) else []


def parse_expression(text: str) -> Expression | None:
    """The first expression that `parse_equation` returns; None if it returns none."""
    return next(iter(parse_equation(text)), None)


class _SyntaxError(Exception):
    pass


class _Parser:
    """A recursive-descent parser of one text."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        self.numbers: list[str] = []
        self.next = self.depth = 0
        end = len(text.rstrip())
        position = 0
        while position < end:
            match = _TOKENS.match(text, position)
            if not match:
                raise _SyntaxError
            self.tokens.append(match[1] or match[2])
            position = match.end()

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

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise _SyntaxError


def _product(value: Fraction | None, factor: Fraction | None) -> Fraction | None:
    return None if value is None or factor is None else value * factor


def _ratio(value: Fraction | None, divisor: Fraction | None) -> Fraction | None:
    return None if value is None or not divisor else value / divisor


def _plain(text: str) -> str:
    for _ in range(3):  # bold, code and the period may stand in any order
        text = text.strip().removesuffix(".")
        marked = _MARKED.fullmatch(text)
        text = marked[2] if marked else text
    words = {"times": "*", "cdot": "*", "ast": "*", "div": "/"}
    text = _LATEX.sub(lambda match: "\\" if match[0] in ("\\d", "\\t") else words.get(match[1] or "", " "), text)
    return _TIMES.sub(r"\1*", text.translate(_SIGNS)).rstrip().removesuffix(".")
