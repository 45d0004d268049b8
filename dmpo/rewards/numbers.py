"""GSM8K: a number in words and signs, read exactly, and the reward for it."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from itertools import pairwise
from typing import Any

from .answers import bare_answer, form_score, read_answer, without_special_tokens

NUMBER_WEIGHT = 0.5
CORRECT_WEIGHT = 2.0

_LONGEST = 400  # characters of an answer; a longer one is no number
_ENDING = 20_000  # characters of a completion that are searched for a cue
_SPACES = r" \u00a0\u2009\u202f"  # plain, no-break, thin and narrow no-break
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
    # A digit that the rest does not cover is a number unread.
    r"(?:(?-i:([kKMB]|bn)\b)|\s?(hundred|thousand|lakh|million|crore|billion|trillion)\b)?|[0-9]",
    re.IGNORECASE,
)
_EXCEPT = r"\b(?:not|never|isn['’]t|wasn['’]t|aren['’]t|cannot be|can['’]t be|neither|nor)\b[^0-9.,;:=]{0,30}[-+]?\s?"
_EXCLUDED = re.compile(_EXCEPT + rf"(?:{_PLAIN})", re.IGNORECASE)
_SCALE = {"hundred": 10**2, "thousand": 10**3, "lakh": 10**5, "million": 10**6, "crore": 10**7, "billion": 10**9}
_SCALE |= {"trillion": 10**12, "k": 10**3, "m": 10**6, "bn": 10**9, "b": 10**9}
_CUES = re.compile(r"####|\banswer[*_]{0,2}\s{0,3}(?:is\b|:|=|[-–—](?=\s))", re.IGNORECASE)
_OPENING = re.compile(r"(?:[\s:*_$]|\\[(\[])*")  # what may stand, on lines of its own, between a cue and the number
_SENTENCE_END = re.compile(r"\n|[.!?](?:\s|$)")
_FRACTION = r"\\[dtc]?frac\s?(?:\{\s?([0-9]+)\s?\}|([0-9]))\s?(?:\{\s?([0-9]+)\s?\}|([0-9])(?![0-9]))"
_CURRENCY = r"\\?[$€£¥₹]?\s?"
_OTHER = re.compile(  # what makes another number, or a bound, of the number beside it
    rf"√\s?[({{]?\s?[0-9]|sqrt|(?!{_FRACTION})\\[dtc]?frac|\\binom|[0-9)}}][⁰¹²³⁴-⁹]"
    r"|\\(?:pi|sin|cos|tan|log|ln|exp|lfloor|lceil|overline|pm|mp|approx|notin)(?![A-Za-z])|π|±|\+/-"
    r"|[0-9]\s?_\s?\{?[0-9]"
    r"|[0-9]\s?pi\b|[0-9]\s(?:squared|cubed|factorial)\b"
    r"|\b(?:half|thirds?|quarters?|twice|double|triple|root|square|cube)\sof\b"
    r"|(?:[<>≤≥≠]|\\(?:[lg]eq?|[lg]t|neq?)(?![A-Za-z]))=?\s?[-−]?\\?[$€£¥₹]?\s?[-−]?[.0-9]"
)
_BOUND = re.compile(  # after the cleaning
    r"\b(?:at (?:least|most)|(?:more|less|fewer|greater|larger|smaller|higher|lower) than|up to)\s[-+]?\s?[.0-9]"
    r"|[0-9](?:\s[A-Za-z]{1,20})?\s(?:or (?:more|less|fewer|greater)|at (?:least|most)|and (?:above|below|up))\b",
    re.IGNORECASE,
)
_RAISED = re.compile(r"(?<![0-9.,])([0-9][0-9.,]*|[)}])\s?(?:\^|\*\*)\s?[({]?\s?[-+]?[0-9A-Za-z]")
_OPERATOR = re.compile(r"\s?[-+*/×÷^x(]{1,2}\s?", re.IGNORECASE)
_MARKUP = re.compile(r"</?[A-Za-z]{1,9}>")
_CLEANING = (
    (re.compile(r"[−–—‒﹣－]"), "-"),
    (re.compile(r"\{,\}|,?\\!"), lambda found: "," if "," in found[0] else ""),
    (re.compile(_FRACTION), r" \1\2/\3\4 "),
    (re.compile("[¼-¾⅐-⅞]"), lambda found: " " + unicodedata.normalize("NFKC", found[0]).replace("\u2044", "/")),
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
    (re.compile(r"\\(?=(?:times|cdot)\b)"), " "),  # the name is kept for powers of ten
    (re.compile(r"\\[A-Za-z]+|\\."), " "),
    (re.compile(r"\b(?:USD|US|EUR|GBP|Rs\.?|RM)\s?(?=[$€£¥₹]?\s?[-0-9])", re.IGNORECASE), ""),
    (re.compile(r"[$€£¥₹`]\s?|\*\*(?!\s?\{?[-+]?[0-9])"), ""),
    (re.compile(r"(?<=[A-Za-z}])\s?\^\s?\{?[0-9]\}?"), " "),  # cm^2
    (re.compile(r" {2,}"), " "),
)


def read_number(text: str) -> Fraction | None:
    """The number that a short text states, exactly; None where it states none, or several different ones.

    Read are thousands separators (comma, space, LaTeX's `{,}`), currency signs, units and other words around the
    number, per cent (as the number before the sign), signs (also the typographic minus), decimals, fractions, mixed
    numbers, powers of ten, "hundred" to "trillion", and K, M, B or bn after a digit; a dozen is a unit. Of `a = b`
    the right side counts; 2:00 pm is 2, and a number after "not" does not count. A text with digits other than
    ASCII's is no number, nor is "8,40", "1.2.3", "3 or 4", "2 + 2", a root, a power, a multiple of π or a bound ("x
    < 18", "at least 18").
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
    r"""The number that a completion gives as its answer, None where it gives none.

    It is read from the last <answer>, else from the last \boxed; without either from what follows the last "####",
    "answer is" or "answer:" up to the end of that sentence, and where that is no number from what follows the last
    "####"; without any of these the whole completion must be one short line that states one number. A number somewhere
    in the reasoning is not an answer.
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
    """The number of a data set's answer: "…#### 72", "72" or 72."""
    return read_number(str(answer).rpartition("####")[2].strip())


def gsm8k(completions: list[str], answer: list[Any], **_: Any) -> list[float]:
    """Form, a number, the right number; in [0, 4].

    `form_score` (at most 1.5), NUMBER_WEIGHT if the answer reads as a number, CORRECT_WEIGHT if it is exactly the
    number of `answer` (GSM8K's own field, or the number alone). Parts and weights: d1 (arXiv 2504.12216, appendix).
    """
    scores = []
    for text, wanted in zip(completions, answer, strict=True):
        found = gsm8k_answer(text)
        right = found is not None and found == gold_number(wanted)
        scores.append(form_score(text) + NUMBER_WEIGHT * (found is not None) + CORRECT_WEIGHT * right)
    return scores


def _has_power(text: str) -> bool:
    """Whether a number is raised to a power, other than a power of ten that multiplies a number."""
    for match in _RAISED.finditer(text):
        before = text[: match.start()].rstrip()
        if match[1] != "10" or not re.search(r"[0-9]\s?(?:[x×*·]|times|cdot)$", before, re.IGNORECASE):
            return True
    return False


def _operates(text: str, left: re.Match[str], right: re.Match[str]) -> bool:
    """Whether a sign of arithmetic stands between two numbers: 2 + 2 is not 2."""
    between = text[left.end() : right.start()]
    return bool(_OPERATOR.fullmatch(between)) or (not between.strip() and bool(right[1]))


def _sentence(text: str, start: int) -> str:
    """What follows a cue, on its line or the next that is not empty, up to the end of the sentence."""
    rest = text[start : start + _LONGEST]
    opening = _OPENING.match(rest)
    rest = rest[opening.end() :] if opening else rest
    return _SENTENCE_END.split(rest, maxsplit=1)[0]


def _value(found: re.Match[str]) -> Fraction | None:
    sign, whole, over, under, plain, divisor, power, exponent, letter, word = found.groups()
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
