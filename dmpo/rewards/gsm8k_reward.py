"""GSM8K: read the number in a text exactly, and reward the right one."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from itertools import pairwise
from typing import Any

from .answers import bare_answer, form_score, read_answer, without_special_tokens

NUMBER_WEIGHT = 0.5
CORRECT_WEIGHT = 2.0

_LONGEST = 400  # the most characters of an answer
_ENDING = 20_000  # a cue is searched in so many characters at the end of a completion
_SPACES = r" \u00a0\u2009\u202f"  # the plain, the no-break, the thin and the narrow no-break space
_DIGITS = (
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])"  # 8,400
    rf"|[0-9]{{1,3}}(?:[{_SPACES}][0-9]{{3}})+(?![0-9])"  # 8 400
    r"|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?![0-9])"  # 1,00,000
    r"|[0-9]+)"
)
_PLAIN = rf"(?:{_DIGITS}(?:\.[0-9]+)?|\.[0-9]+)"
_POWER = (
    r"(?:\s?(?:[x×*·]|times|cdot)\s?10\s?(?:\^|\*\*)\s?\{?([-+]?[0-9]{1,2})\}?(?![0-9])|[eE]([-+]?[0-9]{1,2})(?![0-9]))"
)
_NUMBER = re.compile(
    rf"(?<![0-9A-Za-z])([-+]\s?)?(?:([0-9]+)\s+([0-9]+)\s?/\s?([0-9]+)(?![0-9.,])|({_PLAIN})(?:\s?/\s?({_PLAIN})|{_POWER})?)"
    # The last alternative finds a digit that the others do not cover; such a text states no number.
    r"(?:(?-i:([kKMB]|bn)\b)|\s?(hundred|thousand|lakh|million|crore|billion|trillion)\b)?|[0-9]",
    re.IGNORECASE,
)
_EXCEPT = r"\b(?:not|never|isn['’]t|wasn['’]t|aren['’]t|cannot be|can['’]t be|neither|nor)\b[^0-9.,;:=]{0,30}[-+]?\s?"
_EXCLUDED = re.compile(_EXCEPT + rf"(?:{_PLAIN})", re.IGNORECASE)
_SCALE = {"hundred": 10**2, "thousand": 10**3, "lakh": 10**5, "million": 10**6, "crore": 10**7, "billion": 10**9}
_SCALE |= {"trillion": 10**12, "k": 10**3, "m": 10**6, "bn": 10**9, "b": 10**9}
_CUES = re.compile(r"####|\banswer[*_]{0,2}\s{0,3}(?:is\b|:|=|[-–—](?=\s))", re.IGNORECASE)
_OPENING = re.compile(r"(?:[\s:*_$]|\\[(\[])*")  # may stand between a cue and the number, also over several lines
_SENTENCE_END = re.compile(r"\n|[.!?](?:\s|$)")
_FRACTION = r"\\[dtc]?frac\s?(?:\{\s?([0-9]+)\s?\}|([0-9]))\s?(?:\{\s?([0-9]+)\s?\}|([0-9])(?![0-9]))"
_CURRENCY = r"\\?[$€£¥₹]?\s?"
_OTHER = re.compile(  # signs and words that make another number, or a bound, of the number beside them
    rf"√\s?[({{]?\s?[0-9]|sqrt|(?!{_FRACTION})\\[dtc]?frac|\\binom|[0-9)}}][⁰¹²³⁴-⁹]"
    r"|\\(?:pi|sin|cos|tan|log|ln|exp|lfloor|lceil|overline|pm|mp|approx|notin)(?![A-Za-z])|π|±|\+/-"
    r"|[0-9]\s?_\s?\{?[0-9]"
    r"|[0-9]\s?pi\b|[0-9]\s(?:squared|cubed|factorial)\b"
    r"|\b(?:half|thirds?|quarters?|twice|double|triple|root|square|cube)\sof\b"
    r"|(?:[<>≤≥≠]|\\(?:[lg]eq?|[lg]t|neq?)(?![A-Za-z]))=?\s?[-−]?\\?[$€£¥₹]?\s?[-−]?[.0-9]"
)
_BOUND = re.compile(  # applied after the cleaning
    r"\b(?:at (?:least|most)|(?:more|less|fewer|greater|larger|smaller|higher|lower) than|up to)\s[-+]?\s?[.0-9]"
    r"|[0-9](?:\s[A-Za-z]{1,20})?\s(?:or (?:more|less|fewer|greater)|at (?:least|most)|and (?:above|below|up))\b",
    re.IGNORECASE,
)
_RAISED = re.compile(r"(?<![0-9.,])([0-9][0-9.,]*|[)}])\s?(?:\^|\*\*)\s?[({]?\s?[-+]?[0-9A-Za-z]")
_OPERATOR = re.compile(r"\s?[-+*/×÷^x(]{1,2}\s?", re.IGNORECASE)
_MARKUP = re.compile(r"</?[A-Za-z]{1,9}>")
_CLEANING = (
    (re.compile(r"[−–—‒﹣－]"), "-"),
    (re.compile(r"\{,\}|,?\\!"), lambda match: "," if "," in match[0] else ""),
    (re.compile(_FRACTION), r" \1\2/\3\4 "),
    (re.compile("[¼-¾⅐-⅞]"), lambda match: " " + unicodedata.normalize("NFKC", match[0]).replace("\u2044", "/")),
    (re.compile(r"\b(?:minus|negative)\s(?=\s?\\?[$€£¥₹]?[0-9])", re.IGNORECASE), "-"),
    # A dash between a word and a number is a pause, and a minus after a verb.
    (
        re.compile(
            r"(?<=[A-Za-z])(?<!\bis)(?<!\bare)(?<!\bwas)(?<!\bequals)(?<!\bto)(?<!\bby)\*{0,2}\s+-\s+(?=[$€£¥₹0-9])"
        ),
        " ",
    ),
    (re.compile(r"\b([0-9]{1,2}):00(?![0-9:])(?:\s?(?:[ap]\.?\s?m\b\.?|o['’]clock\b))?", re.IGNORECASE), r"\1"),
    (re.compile(r"\b([0-9]+)\s(?:and\s)(?:a|one)\shalf\b", re.IGNORECASE), r"\1.5"),
    (re.compile(r"\\(?=(?:times|cdot)\b)"), " "),  # powers of ten need the name
    (re.compile(r"\\[A-Za-z]+|\\."), " "),
    (re.compile(r"\b(?:USD|US|EUR|GBP|Rs\.?|RM)\s?(?=[$€£¥₹]?\s?[-0-9])", re.IGNORECASE), ""),
    (re.compile(r"[$€£¥₹`]\s?|\*\*(?!\s?\{?[-+]?[0-9])"), ""),
    (re.compile(r"(?<=[A-Za-z}])\s?\^\s?\{?[0-9]\}?"), " "),  # cm^2
    (re.compile(r" {2,}"), " "),
)


def read_number(text: str) -> Fraction | None:
    """The exact number that a short text states; None if it states no number, or several different ones.

    The number may have a sign (also the typographic minus), thousands separators (comma, space, LaTeX's `{,}`), a
    currency sign, units and other words around it. It may be a decimal, a fraction, a mixed number or a power of ten.
    It may have "hundred" to "trillion", or K, M, B or bn, behind its digits. Per cent is the number before the sign,
    and a dozen is a unit. In `a = b` the right side counts; 2:00 pm is 2; a number after "not" is ignored. These state
    no number: digits that are not ASCII, "8,40", "1.2.3", "3 or 4", "2 + 2", a root, a power, a multiple of π, and a
    bound ("x < 18", "at least 18").
    """
    if len(text) > _LONGEST or any(c.isdecimal() and not c.isascii() for c in text):
        return None
    text = _MARKUP.sub(" ", re.split(r"(?<![<>!])=>?|≈|-+>", text)[-1])
    if _OTHER.search(text):
        return None
    for pattern, replacement in _CLEANING:
        text = pattern.sub(replacement, text)
    text = _EXCLUDED.sub(" ", text)
    if _BOUND.search(text) or _has_power(text):
        return None
    matches = list(_NUMBER.finditer(text))
    if any(_operates(text, left, right) for left, right in pairwise(matches)):
        return None
    values = {_value(match) for match in matches}
    return values.pop() if len(values) == 1 else None


def gsm8k_answer(completion: str) -> Fraction | None:
    r"""The number that a completion gives as its answer; None if it gives none.

    The last <answer> is read, or without tags the last \boxed. Without both, the sentence after the last "####",
    "answer is" or "answer:" is read; if it states no number, the sentence after the last "####". Without any of these,
    the whole completion must be one short line that states one number. A number inside the reasoning is no answer.
    """
    completion = without_special_tokens(completion)
    answer = read_answer(completion)
    if answer is None:
        ending = completion[-_ENDING:]
        cues = [*_CUES.finditer(ending)]
        if cues:
            number = read_number(_sentence(ending, cues[-1].end()))
            marks = [cue.end() for cue in cues if cue[0] == "####"]
            return read_number(_sentence(ending, marks[-1])) if number is None and marks else number
        answer = bare_answer(completion, 40)
    return None if answer is None else read_number(answer)


def gold_number(answer: Any) -> Fraction | None:
    """The number in an answer of the data set: "…#### 72", "72" or 72."""
    return read_number(str(answer).rpartition("####")[2].strip())


def gsm8k(completions: list[str], answer: list[Any], **_: Any) -> list[float]:
    """The reward of the form, of a number, and of the right number; in [0, 4].

    The sum of `form_score` (at most 1.5), NUMBER_WEIGHT if the answer is a number, and CORRECT_WEIGHT if it is exactly
    the number of `answer` (GSM8K's own column, or the number alone). The three terms and their weights are from d1
    (arXiv 2504.12216, appendix).
    """
    scores = []
    for text, right_answer in zip(completions, answer, strict=True):
        number = gsm8k_answer(text)
        correct = number is not None and number == gold_number(right_answer)
        scores.append(form_score(text) + NUMBER_WEIGHT * (number is not None) + CORRECT_WEIGHT * correct)
    return scores


def _has_power(text: str) -> bool:
    """Whether the text has a power, except a power of ten that multiplies a number."""
    for match in _RAISED.finditer(text):
        before = text[: match.start()].rstrip()
        if match[1] != "10" or not re.search(r"[0-9]\s?(?:[x×*·]|times|cdot)$", before, re.IGNORECASE):
            return True
    return False


def _operates(text: str, left: re.Match[str], right: re.Match[str]) -> bool:
    """Whether an arithmetic sign stands between two numbers: 2 + 2 is not 2."""
    between = text[left.end() : right.start()]
    return bool(_OPERATOR.fullmatch(between)) or (not between.strip() and bool(right[1]))


def _sentence(text: str, start: int) -> str:
    """The text after a cue, on its line or the next line that is not empty, up to the end of the sentence."""
    following = text[start : start + _LONGEST]
    opening = _OPENING.match(following)
    following = following[opening.end() :] if opening else following
    return _SENTENCE_END.split(following, maxsplit=1)[0]


def _value(match: re.Match[str]) -> Fraction | None:
    sign, whole, over, under, plain, divisor, power, exponent, letter, word = match.groups()
    if plain is None and whole is None:
        return None
    if whole is not None:
        if int(under) == 0:
            return None
        value = int(whole) + Fraction(int(over), int(under))
    else:
        value = _plain(plain)
        if divisor is not None:
            if _plain(divisor) == 0:
                return None
            value /= _plain(divisor)
        value *= Fraction(10) ** int(power or exponent or 0)
    value *= _SCALE[(letter or word).lower()] if letter or word else 1
    return -value if sign and sign[0] == "-" else value


def _plain(digits: str) -> Fraction:
    return Fraction("".join(c for c in digits if c in "0123456789."))
