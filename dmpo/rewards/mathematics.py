r"""MATH: whether an answer in LaTeX is equivalent to the right one, by math-verify in worker processes with a limit.

sympy may think about `9^{9^{9}}` for as long as there is memory. So the comparison runs where it can be killed: a
worker counts its CPU seconds, at most CPU_LIMIT for a pair, and the kernel ends it past that; the pair counts as not
equivalent and as a failure.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

from .answers import TAGS, bare_answer, boxed_answer, read_answer, tagged_answer
from .arithmetic import Expression, parse_expression
from .outcomes import Failure, Scores
from .workers import WorkerPool

TAGS_WEIGHT = 0.5
BOX_WEIGHT = 0.5
CORRECT_WEIGHT = 2.0
CPU_LIMIT = 0.7  # CPU seconds of one comparison; usual ones take 0.001 to 0.1
MEMORY_LIMIT = 4 << 30  # bytes of address space of a worker

_LONGEST = 300  # characters; the longest answer in MATH's test split has 160
_NUMBER = r"[\s{(]*[0-9]+[\s})]*"
_BOMB = re.compile(  # what takes more digits than there is memory for: towers of powers, powers and factorials of much
    rf"(?:\^|\*\*){_NUMBER}(?:\^|\*\*)|(?:\^|\*\*)[\s{{(]*[0-9]{{5}}"
    r"|[0-9]{4}[\s})]*!|![\s})]*!|binom\s*\{[0-9]{5}|[A-Za-z][^()]*\)\s*(?:\^|\*\*)[\s{(]*[0-9]{3}"
)

# ASCII, Latin and Greek letters, the signs that are typed in place of LaTeX's; no emoji, no other script's digits.
_SIGNS = re.compile(r"[\s!-~\u00a1-\u024f\u0370-\u03ff\u2010-\u2027\u2030-\u205e\u2070-\u22ff]*")
_PILE = re.compile(r"(?:[-+]\s*){5}|(?:[(\[{]\s*){20}|(?:\\(?:sqrt|frac)\s*\{[^{}]*){12}")

# Plain numbers as LaTeX lets them be written: 8,400 as a whole (in a pair it is two numbers), \frac12, .5 and 5.
_GROUPED = re.compile(r"[-\\$\s]*[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])\.?[0-9]*[\s$]*")
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{\s*([0-9]+)\s*\}|([0-9]))\s*(?:\{\s*([0-9]+)\s*\}|([0-9]))")
_POINT = re.compile(r"(?<![0-9])\.(?=[0-9])|(?<=[0-9])\.$")
_UNKNOWN = re.compile(r"=|(?<![\\A-Za-z])[A-Za-z]")

# math-verify passes over these two: the base of a number (1A_{16}, not log_2, x_2 or _5C_2), and that it is excluded.
_BASE = re.compile(r"(?<![0-9A-Z_])(?=[A-F]*[0-9])([0-9A-F]+)\s*_\s*(?:\{\s*([1-3]?[0-9])\s*\}|([1-3]?[0-9])(?![0-9]))")
_EXCLUDED = re.compile(r"\\(?:neq?|not|notin)(?![A-Za-z])|[≠∉]")

# What people write in place of LaTeX and math-verify does not read.
_RAISED = "[⁰¹²³⁴-⁹⁻]+"
_WRITTEN = (
    (re.compile(r"^(?:\w{2,9},?\s)?(?:the\s)?(?:final\s|correct\s)?answer(?:\sis\b|:)[\s:]*", re.IGNORECASE), ""),
    (
        re.compile(
            r"\s+(?:square\s|cubic\s|sq\.?\s)?(?:dollars?|cents?|degrees?|percent|units?|inch(?:es)?|f(?:ee|oo)?t|yards?|miles?"
            r"|met(?:er|re)s?|[cmk]m|kg|grams?|pounds?|seconds?|minutes?|hours?|days?|weeks?|months?|years?)$"
        ),
        "",
    ),
    (
        re.compile("[¼-¾⅐-⅞]"),
        lambda found: r"\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", found[0]).split("\u2044")),
    ),
    (re.compile(_RAISED), lambda found: f"^{{{unicodedata.normalize('NFKC', found[0]).replace(chr(0x2212), '-')}}}"),
    (re.compile(r"√\s*(?:([0-9]+|[A-Za-z])|\{([^{}]*)\}|\(([^()]*)\))"), r"\\sqrt{\1\2\3}"),
    (re.compile("°"), r"^\\circ "),
    (re.compile("∞"), r"\\infty "),
    (re.compile("[·⋅]"), r"\\cdot "),
    (re.compile("−"), "-"),
    (re.compile(r"(?<![A-Za-z\\{])pi(?![A-Za-z])"), r"\\pi "),
    (re.compile(r"^(-?\s*[0-9]+)\s+([0-9]+)\s?/\s?([0-9]+)$"), r"\1\\frac{\2}{\3}"),
)
_PERIOD = re.compile(r"(?<!\\right)(?<!\\left)\.$")
_PERCENT = re.compile(r"\s*\\?%$")
_MIXED = re.compile(r"(-?)\s*([0-9]+)\s*\\frac\{([0-9]+)\}\{([0-9]+)\}")
_DEGREES = re.compile(r"\s*\^\s*(?:\\circ|\{\s*\\circ\s*\})$")

_noted: ContextVar[list[Failure] | None] = ContextVar("noted", default=None)


def math_answer(completion: str) -> str | None:
    r"""The LaTeX of a completion's answer, None where it gives none or one beyond any in use.

    It is read from the last <answer>, less a \boxed around it; without tags from the last \boxed; without either a
    completion of one short line is the answer as a whole.
    """
    answer = read_answer(completion)
    if answer is None:
        answer = bare_answer(completion, _LONGEST)
    return answer if answer and len(answer) <= _LONGEST else None


def gold_latex(answer: Any) -> str:
    r"""The LaTeX of a right answer: what is in its last \boxed, if it has one (a whole solution), else all of it."""
    boxed = boxed_answer(str(answer))
    return str(answer).strip() if boxed is None else boxed


def equivalent(pairs: list[tuple[str, str]]) -> Scores:
    """For each (answer, right answer) in LaTeX 1 if they are the same, else 0; a pair over its limit is a failure.

    Plain arithmetic is compared exactly, here; a worker is asked, and at first started, only for the rest.
    """
    pairs = [(_written(answer), _written(gold)) for answer, gold in pairs]
    decided = {pair: _decided(*pair) for pair in pairs}
    known = {pair: Scores([float(same)]) for pair, same in decided.items() if same is not None}
    asked = [pair for pair in decided if pair not in known]
    if asked:
        found = _pool().score([pair[0] for pair in asked], {"gold": [pair[1] for pair in asked]})
        failures = {failure.row: [failure] for failure in found.failures}
        known |= {pair: Scores([found.values[i]], failures.get(i, [])) for i, pair in enumerate(asked)}
    scores = Scores([known[pair].values[0] for pair in pairs])
    for index, pair in enumerate(pairs):
        scores.failures.extend(failure._replace(row=index) for failure in known[pair].failures)
    return scores


def math_correct(completions: list[str], answer: list[Any]) -> list[bool]:
    """Whether each completion gives its right answer."""
    answers = [math_answer(text) for text in completions]
    # An empty answer is no answer, and no right one is empty.
    scores = equivalent([(text or "", gold_latex(gold)) for text, gold in zip(answers, answer, strict=True)])
    noted = _noted.get()
    if noted is not None:
        noted.extend(scores.failures)
    return [text is not None and value == 1 for text, value in zip(answers, scores.values, strict=True)]


@contextmanager
def failures() -> Iterator[list[Failure]]:
    """The comparisons that fail within the context, by index of the completion."""
    found: list[Failure] = []
    token = _noted.set(found)
    try:
        yield found
    finally:
        _noted.reset(token)


def math(completions: list[str], answer: list[Any], **_: Any) -> list[float]:
    r"""Form and the right answer; in [0, 3].

    TAGS_WEIGHT if the answer is in closed <answer> tags, BOX_WEIGHT if it is in a \boxed (within the tags where there
    are any), CORRECT_WEIGHT if it is equivalent to `answer` (LaTeX, or a solution with a \boxed) by math-verify. The
    sum for the form and the weight of the answer are d1's (arXiv 2504.12216, appendix).
    """
    return [
        _form(text) + CORRECT_WEIGHT * right
        for text, right in zip(completions, math_correct(completions, answer), strict=True)
    ]


def compare(completions: list[str], gold: list[str]) -> list[float]:
    """1 where math-verify finds an answer equivalent, else 0. Runs in a worker: nothing here limits its time."""
    from math_verify import verify

    return [
        float(verify(_parsed(right), _parsed(answer), timeout_seconds=None))
        for answer, right in zip(completions, gold, strict=True)
    ]


def warm_up() -> None:
    """Load what `compare` needs, once in the process that the workers are forked from."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    logging.getLogger("latex2sympy2_extended").setLevel(logging.CRITICAL)
    samples = [
        r"\frac{1}{2}",
        r"(3, \frac{\pi}{2})",
        r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
        "[0,1)",
        "2x+3",
        r"\sqrt{2}",
    ]
    compare(samples, samples[::-1])


def _parsed(latex: str) -> Any:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    settings = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    return parse(f"\\boxed{{{latex}}}", extraction_config=settings, parsing_timeout=None)


def _form(text: str) -> float:
    tagged = tagged_answer(text)
    closed = tagged is not None and "</answer>" in text[text.rindex("<answer>") :]
    boxed = boxed_answer(text if tagged is None else tagged)
    return TAGS_WEIGHT * closed + BOX_WEIGHT * (boxed is not None)


def _may_be_latex(answer: str) -> bool:
    """Whether an answer is worth the question: signs of mathematics, no bomb, no pile, no tag, braces closed."""
    if (
        not answer
        or len(answer) > 2 * _LONGEST
        or not _SIGNS.fullmatch(answer)
        or _BOMB.search(answer)
        or _PILE.search(answer)
    ):
        return False
    if any(tag in answer for tag in TAGS) or "####" in answer:
        return False
    braces = re.sub(r"\\.", "", answer)
    return boxed_answer(f"\\boxed{{{braces}}}") == braces.strip()


def _decided(answer: str, gold: str) -> bool | None:
    """Whether an answer is right, where that takes no worker to see; None where it does."""
    if answer and "".join(answer.split()) == "".join(gold.split()):
        return True
    if not _may_be_latex(answer):
        return False
    if _EXCLUDED.search(answer) and not _EXCLUDED.search(gold):
        return False
    bases, wanted = _bases(answer), _bases(gold)
    if bases and bases != (wanted or ["10"] * len(bases)):
        return False
    if wanted:  # the same digits, with the base or without
        answer, gold = (_BASE.sub(r"\1", text) for text in (answer, gold))
        if "".join(answer.split()) == "".join(gold.split()):
            return True
    given, right = _arithmetic(answer), _arithmetic(gold)
    if given is None:
        return None
    if given.value is None:  # divides by 0
        return False
    if right is None or right.value is None:
        return None if right is None else False
    shares = _PERCENT.search(answer) is not None, _PERCENT.search(gold) is not None
    return given.value == right.value or (  # 50% is 50, and 1/2
        shares[0] != shares[1] and given.value * 100 ** shares[1] == right.value * 100 ** shares[0]
    )


def _written(latex: str) -> str:
    """An answer in LaTeX's signs, less marks of bold and code, a final period, words before it and a unit after it."""
    for _ in range(2):
        latex = _PERIOD.sub("", latex.strip())
        for mark in ("**", "`"):
            if latex.startswith(mark) and latex.endswith(mark) and len(latex) > 2 * len(mark):
                latex = latex[len(mark) : -len(mark)].strip()
    for pattern, replacement in _WRITTEN:
        latex = pattern.sub(replacement, latex)
    return latex.strip()


def _bases(latex: str) -> list[str]:
    return sorted(found[2] or found[3] for found in _BASE.finditer(latex))


def _arithmetic(latex: str) -> Expression | None:
    """What is plain arithmetic as a whole, read exactly; None where it is anything else, or an equation."""
    text = latex.replace("{,}", ",").replace("\\!", "").strip().removeprefix("+")
    text = _DEGREES.sub("", _PERCENT.sub("", text))
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "")
    text = _FRACTION.sub(r"\\frac{\1\2}{\3\4}", text)
    mixed = _MIXED.fullmatch(text)
    if mixed and int(mixed[3]) < int(mixed[4]):
        text = rf"{mixed[1]}({mixed[2]}+\frac{{{mixed[3]}}}{{{mixed[4]}}})"
    text = _POINT.sub(lambda found: "0." if found.end() < len(found.string) else "", text)
    return None if _UNKNOWN.search(text) else parse_expression(text)  # which reads an x between numbers as ×


@cache
def _pool() -> WorkerPool:
    return WorkerPool(
        f"{__name__}:compare",
        prepare=f"{__name__}:warm_up",
        cpu_limit=CPU_LIMIT,
        memory_limit=MEMORY_LIMIT,
        singly=True,
    )
