"""Expressions as trees, and the tokens of a plain LaTeX text (see `latex_text`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from .latex_text import FONTS

LONGEST_NUMBER = 400
"""Digits of a number that is read."""


class UnreadError(Exception):
    """A text, or a part of it, that the grammar does not hold."""


@dataclass(frozen=True)
class Node:
    r"""An operation and its operands.

    op: `num` (value; name is its digits), `sym` (name), `word` (name), `inf`; `add`, `mul`, `div`, `ratio`, `neg`,
        `pow`, `fact`, `percent`, `degree`, `call` (name), `mod`; `relation` (operands and their signs, name has the
        signs with blanks), `bound` (a sign and what follows), `tuple` (name has the brackets), `set`, `list`, `union`,
        `intersection`, `difference`, `matrix` (of `row`), `quantity` (name is the unit).
    """

    op: str
    args: tuple[Node, ...] = ()
    name: str = ""
    value: Fraction | None = None


def number(digits: str) -> Node:
    """The node of a number, written in digits with at most one point."""
    if len(digits) > LONGEST_NUMBER:
        raise UnreadError
    return Node("num", name=digits, value=Fraction(digits.rstrip(".") if not digits.startswith(".") else "0" + digits))


@dataclass(frozen=True)
class Token:
    r"""kind: `num`, `sym`, `func`, `word`, or `sign`; glued: no space precedes it; typed: without a backslash."""

    kind: str
    text: str
    glued: bool = False
    typed: bool = False


FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth log ln lg exp sqrt cbrt gcd lcm "
    "max min det abs floor ceil sgn arg Re Im".split()
)
_FUNCTION_NAMES = {
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "cosec": "csc",
    "root": "sqrt",
    "ceiling": "ceil",
}
_GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi rho sigma tau upsilon "
    "phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell hbar".split()
)
_NAMED = (
    _GREEK | FUNCTIONS | frozenset(_FUNCTION_NAMES) | {"infty", "inf", "infinity", "times", "cdot", "binom", "frac"}
)
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
        UnreadError: more tokens than any answer in use has, a digit or letter beyond ASCII, a brace that is not closed.
    """
    result: list[Token] = []
    word_depths: list[int] = []  # the depths of braces at which a text of words ends
    depth = 0
    font = False
    place, end = 0, len(text.rstrip())
    while place < end:
        match = _TOKEN.match(text, place)
        if not match or len(result) > _MOST_TOKENS:
            raise UnreadError
        place = match.end()
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
        return Token("sym", name.removeprefix("var") if name != "var" else name, glued)
    return Token("sign", command, glued)


def _letters(letters: str, glued: bool, inside_words: bool) -> list[Token]:
    """Letters side by side: a name, a word, or symbols one by one."""
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
    for name in ("pi", "sqrt"):  # xpi, 2pir
        if len(letters) > len(name) and letters.startswith(name):
            return [*_letters(name, glued, False), *_letters(letters[len(name) :], True, False)]
        if len(letters) > len(name) and letters.endswith(name):
            return [*_letters(letters[: -len(name)], glued, False), *_letters(name, True, False)]
    return [Token("sym", letter, glued or index > 0, True) for index, letter in enumerate(letters)]
