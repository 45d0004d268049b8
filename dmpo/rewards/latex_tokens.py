"""Split a plain LaTeX text (see `latex_text`) into tokens, and take them one by one."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .expressions import UnreadError
from .latex_text import FONTS

LONGEST_CHAIN = 60
"""The most factors of a product; each factor is one level of the tree."""

_DEEPEST = 80


@dataclass(frozen=True)
class Token:
    r"""kind: `num`, `sym`, `func`, `word`, or `sign`; glued: no space is before it; typed: it has no backslash."""

    kind: str
    text: str
    glued: bool = False
    typed: bool = False


_FUNCTIONS_TEXT = """
    Im Re abs arccos arccot arccsc arcsec arcsin arctan arg cbrt ceil cos cosh cot coth csc det exp floor gcd lcm lg
    ln log max min sec sgn sin sinh sqrt tan tanh
"""
FUNCTIONS = frozenset(_FUNCTIONS_TEXT.split())
_FUNCTION_NAMES = {
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "cosec": "csc",
    "root": "sqrt",
    "ceiling": "ceil",
}
_GREEK_TEXT = """
    Delta Gamma Lambda Omega Phi Pi Psi Sigma Theta Upsilon Xi alpha beta chi delta ell epsilon eta gamma hbar iota
    kappa lambda mu nu omega phi pi psi rho sigma tau theta upsilon varepsilon varphi vartheta xi zeta
"""
_GREEK = frozenset(_GREEK_TEXT.split())
_SIGN_COMMANDS = {
    r"\times": "*",
    r"\cdot": "*",
    r"\div": "/",
    r"\le": "<=",
    r"\ge": ">=",
    r"\ne": "!=",
    r"\lt": "<",
    r"\gt": ">",
    r"\%": "%",
    r"\colon": ":",
    r"\bmod": "mod",
    r"\pmod": "mod",
    r"\mod": "mod",
    r"\lbrace": r"\{",
    r"\rbrace": r"\}",
    r"\prime": "'",
    r"\Vert": r"\|",
}
_TOKEN = re.compile(r"(\s*)(?:([0-9]+(?:\.[0-9]*)?|\.[0-9]+)|(\\[A-Za-z]+\*?|\\\\|\\.)|([A-Za-z]+)|(\S))", re.DOTALL)
_MOST_TOKENS = 700


def tokens(text: str) -> list[Token]:
    """The tokens of a plain LaTeX text.

    Raises:
        UnreadError: the text has too many tokens, a digit or letter that is not ASCII, or a brace that does not close.
    """
    result: list[Token] = []
    word_depths: list[int] = []  # depths of the open braces of text commands
    depth = 0
    font = False
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if not match or len(result) > _MOST_TOKENS:
            raise UnreadError
        position = match.end()
        space, digits, command, letters, sign = match.groups()
        glued = not space and bool(result)
        if digits:
            result.append(Token("num", digits, glued, True))
        elif command:
            name = command[1:].rstrip("*")
            if name in FONTS:
                font = True
                continue
            result.append(_command(command, name, glued))
        elif letters:
            result.extend(_letters(letters, glued, inside_words=bool(word_depths) or font))
        elif sign == "{":
            depth += 1
            if font:
                word_depths.append(depth)
            result.append(Token("sign", "{", glued))
        elif sign == "}":
            if depth == 0:
                raise UnreadError
            if word_depths and word_depths[-1] == depth:
                word_depths.pop()
            depth -= 1
            result.append(Token("sign", "}", glued))
        elif sign.isalnum() or ord(sign) < 32 or not sign.isprintable():
            raise UnreadError
        else:
            result.append(Token("sign", sign, glued, True))
        font = False
    if depth or font:
        raise UnreadError
    return result


def _command(command: str, name: str, glued: bool) -> Token:
    if command in _SIGN_COMMANDS:
        return Token("sign", _SIGN_COMMANDS[command], glued)
    if name in FUNCTIONS or name in _FUNCTION_NAMES:
        return Token("func", _FUNCTION_NAMES.get(name, name), glued)
    if name in _GREEK:
        return Token("sym", name.removeprefix("var"), glued)
    return Token("sign", command, glued)


def _letters(letters: str, glued: bool, inside_words: bool) -> list[Token]:
    """The tokens of letters side by side: a name, a word, or single symbols."""
    if letters in FUNCTIONS or letters in _FUNCTION_NAMES:
        return [Token("func", _FUNCTION_NAMES.get(letters, letters), glued, True)]
    if letters in _GREEK:
        return [Token("sym", letters, glued, True)]
    if letters.lower() in ("infinity", "infty", "inf"):
        return [Token("sign", r"\infty", glued, True)]
    if letters == "mod":
        return [Token("sign", "mod", glued, True)]
    if len(letters) > 1 and (inside_words or len(letters) > 3):
        return [Token("word", letters.lower(), glued, True)]
    for name in ("pi", "sqrt"):  # as in xpi, 2pir
        if len(letters) > len(name) and letters.startswith(name):
            return [*_letters(name, glued, False), *_letters(letters[len(name) :], True, False)]
        if len(letters) > len(name) and letters.endswith(name):
            return [*_letters(letters[: -len(name)], glued, False), *_letters(name, True, False)]
    return [Token("sym", letter, glued or index > 0, True) for index, letter in enumerate(letters)]


class TokenStream:
    """Tokens that are taken one by one. Nested and chained operands are counted, so that trees stay shallow."""

    def __init__(self, token_list: list[Token]) -> None:
        self.tokens = token_list
        self.position = self.depth = self.chained = 0

    def peek(self, ahead: int = 0) -> str | None:
        """The next sign; "" before a number, symbol, function or word; None at the end."""
        position = self.position + ahead
        if position >= len(self.tokens):
            return None
        return self.tokens[position].text if self.tokens[position].kind == "sign" else ""

    def kind(self, ahead: int = 0) -> str:
        position = self.position + ahead
        return self.tokens[position].kind if position < len(self.tokens) else ""

    def take(self) -> Token:
        if self.position >= len(self.tokens):
            raise UnreadError
        self.position += 1
        return self.tokens[self.position - 1]

    def accept(self, sign: str) -> bool:
        if self.peek() == sign:
            self.position += 1
            return True
        return False

    def expect(self, sign: str) -> None:
        if not self.accept(sign):
            raise UnreadError

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise UnreadError

    def longer(self) -> bool:
        """Count a factor that a loop adds to the tree; the limit holds for the whole text."""
        self.chained += 1
        if self.chained > 2 * LONGEST_CHAIN:
            raise UnreadError
        return True
