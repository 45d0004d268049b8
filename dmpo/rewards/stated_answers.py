"""Whether a completion states the right answer: as a text without regard to case and white space, or as a number."""

from __future__ import annotations

import re
from fractions import Fraction

from .answers import read_answer, without_special_tokens

# A leading zero makes a text of digits: 0012 is not 12.
_NUMBER = re.compile(r"[-+]?(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|0|[1-9][0-9]*)?(?:\.[0-9]+)?")
_LONGEST_NUMBER = 100


def stated_answer(completion: str) -> str | None:
    r"""The answer in a completion: in `<answer>` tags, or else in \boxed, or else the whole completion; None if it is
    empty. See `answers.read_answer`."""
    answer = read_answer(completion)
    return (without_special_tokens(completion).strip() if answer is None else answer) or None


def same_answer(answer: str, right: str) -> bool:
    """Whether two answers are equal: as texts without case and with single spaces, or as numbers (8,400 and 8400.0)."""
    first, second = (" ".join(text.casefold().split()) for text in (answer, right))
    if first == second:
        return True
    number = _number(first)
    return number is not None and number == _number(second)


def _number(text: str) -> Fraction | None:
    """The value of a number in digits, with a sign, decimals and commas at thousands; None for any other text."""
    digits = text.replace("−", "-")
    if len(digits) > _LONGEST_NUMBER or not any(map(str.isdigit, digits)) or not _NUMBER.fullmatch(digits):
        return None
    return Fraction(digits.replace(",", ""))
