r"""Equivalence by math-verify, for answers that `equivalence` cannot parse.

Nothing here is bounded in time or memory, so it runs in a worker process. math-verify skips what its grammar does not
have. So its result counts only if the parsed expression has all digits, symbols and named signs of the text.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from fractions import Fraction
from typing import Any

_COMMAND = re.compile(r"\\([A-Za-z]+)")
_NAMED = re.compile(
    r"alpha|beta|gamma|delta|epsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|phi|chi|psi|omega"
    r"|sin|cos|tan|log|ln"
)
# The commands of math-verify's grammar; a text with any other command or sign is not parsed as a whole.
_KNOWN_TEXT = """
    frac sqrt int iint oint sum prod lim to rightarrow infty cdot times div left right binom limits pm le ge ne cup cap
    setminus in mathbb max min gcd exp det lfloor rfloor lceil rceil bmod pmod mod equiv partial arcsin arccos arctan
    sinh cosh tanh cot sec csc mid begin end text mathrm operatorname
"""
_KNOWN = frozenset(_KNOWN_TEXT.split())
_SIGNS = re.compile(r"(?:\\[A-Za-z]+|\\[\\%{}]|[\s0-9A-Za-z.,;:+\-*/^_=<>!|&(){}\[\]])*")
_WORDS = re.compile(r"\\(?:text|mbox|mathrm|operatorname|begin|end)\s*\{[^{}]*\}")
_FRACTION = re.compile(r"\\frac\{([0-9]{1,9})\}\{([0-9]{1,9})\}")


def compare(completions: list[str], gold: list[str]) -> list[float]:
    """1 if math-verify calls the two answers equivalent and parsed both as a whole; else 0."""
    from math_verify import verify

    scores = []
    for answer, right_answer in zip(completions, gold, strict=True):
        parsed_answer, parsed_right = _parsed(answer), _parsed(right_answer)
        whole = _is_whole(answer, parsed_answer) and _is_whole(right_answer, parsed_right)
        scores.append(float(whole and verify(parsed_right, parsed_answer, timeout_seconds=None)))
    return scores


def warm_up() -> None:
    """Import what `compare` needs, once, in the process that forks the workers."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    logging.getLogger("latex2sympy2_extended").setLevel(logging.CRITICAL)
    samples = [
        r"\frac{1}{2}",
        r"(3, \frac{\pi}{2})",
        r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
        "[0,1)",
        "2x+3",
        r"\sqrt{2}",
        r"\int_0^1 x dx",
    ]
    compare(samples, samples[::-1])


def _parsed(latex: str) -> Any:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    settings = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    return parse(f"\\boxed{{{latex}}}", extraction_config=settings, parsing_timeout=None)


def _is_whole(latex: str, parsed: list[Any]) -> bool:
    """Whether the expression that math-verify parsed has all digits, symbols and names of the text."""
    expressions = [expression for expression in parsed if not isinstance(expression, str)]
    if not expressions:
        return False
    parsed_text = str(expressions[0])
    commands = set(_COMMAND.findall(latex))
    if not _SIGNS.fullmatch(latex) or any(name not in _KNOWN and not _NAMED.fullmatch(name) for name in commands):
        return False
    latex = _FRACTION.sub(lambda match: str(Fraction(int(match[1]), int(match[2]) or 1)), _WORDS.sub(" ", latex))
    lost_digits = Counter(re.findall("[0-9]", latex)) - Counter(re.findall("[0-9]", parsed_text))
    names = {name for name in _COMMAND.findall(latex) if _NAMED.fullmatch(name)}
    letters = set(re.findall("[A-Za-z]", _COMMAND.sub(" ", latex))) - {"d"}  # the d of dx is no symbol
    return not lost_digits and all(name in parsed_text for name in (*names, *letters))
