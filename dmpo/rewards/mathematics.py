r"""MATH: whether an answer in LaTeX is equivalent to the right one, by math-verify in worker processes with a limit.

sympy may think about `9^{9^{9}}` for as long as there is memory. So the comparison runs where it can be killed: a
worker counts its CPU seconds, at most CPU_LIMIT for a pair, and the kernel ends it past that; the pair counts as not
equivalent and as a failure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

from .answers import TAGS, bare_answer, boxed_answer, gold_of_solution, read_answer, tagged_answer
from .equivalence import decide
from .latex_text import plain_latex
from .outcomes import Failure, Scores
from .workers import WorkerPool

TAGS_WEIGHT = 0.5
BOX_WEIGHT = 0.5
CORRECT_WEIGHT = 2.0
CPU_LIMIT = 0.7  # CPU seconds of one comparison; usual ones take 0.001 to 0.1
MEMORY_LIMIT = 4 << 30  # bytes of address space of a worker

_LONGEST = 300  # characters; the longest answer in MATH's test split has 160
_NUMBER = r"[\s{(]*[0-9]+[\s})]*"
_BOMB = re.compile(  # what takes computer algebra more digits than there is memory for
    rf"(?:\^|\*\*){_NUMBER}(?:\^|\*\*)|(?:\^|\*\*)[\s{{(]*[0-9]{{5}}"
    r"|[0-9]{4}[\s})]*!|![\s})]*!|binom\s*\{[0-9]{5}|[A-Za-z][^()]*\)\s*(?:\^|\*\*)[\s{(]*[0-9]{3}"
)

# ASCII, Latin and Greek letters, the signs that are typed in place of LaTeX's; no emoji, no other script's digits.
_SIGNS = re.compile(r"[\s!-~\u00a1-\u024f\u0370-\u03ff\u2010-\u2027\u2030-\u205e\u2070-\u22ff\u27e8\u27e9]*")
_PILE = re.compile(r"(?:[-+]\s*){5}|(?:[(\[{]\s*){20}|(?:\\(?:sqrt|frac)\s*\{[^{}]*){12}")

# The base of a number (1A_{16}, not log_2, x_2 or _5C_2), and that a value is excluded.
_BASE = re.compile(r"(?<![0-9A-Z_])(?=[A-F]*[0-9])([0-9A-F]+)\s*_\s*(?:\{\s*([1-3]?[0-9])\s*\}|([1-3]?[0-9])(?![0-9]))")
_BASE_WORD = re.compile(r"(?<=[0-9A-F])\s*(?:\\text\s*\{)?\s*\(?(?:in\s)?base[\s-]*([1-3]?[0-9])\)?\s*\}?\s*$")
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff\u00ad"))  # spaces of no width
_EXCLUDED = re.compile(r"\\(?:neq?|not|notin)(?![A-Za-z])|[≠∉]")

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
    r"""The LaTeX of a right answer: what its boxes hold, if it has any (a whole solution), else all of it."""
    boxed = gold_of_solution(str(answer))
    return str(answer).strip() if boxed is None else boxed


def equivalent(pairs: list[tuple[str, str]]) -> Scores:
    """For each (answer, right answer) in LaTeX 1 if they are the same, else 0; a pair over its limit is a failure.

    What `equivalence` reads is compared here; a worker is asked, and at first started, only for the rest.
    """
    pairs = [(answer.translate(_INVISIBLE).strip(), gold.strip()) for answer, gold in pairs]
    decided = {pair: _decided(*pair) for pair in pairs}
    known = {pair: Scores([float(same)]) for pair, same in decided.items() if same is not None}
    asked = [pair for pair in decided if pair not in known]
    if asked:
        written = [tuple(map(plain_latex, pair)) for pair in asked]
        found = _pool().score([pair[0] for pair in written], {"gold": [pair[1] for pair in written]})
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


def _form(text: str) -> float:
    tagged = tagged_answer(text)
    closed = tagged is not None and "</answer>" in text[text.rindex("<answer>") :]
    if tagged == "":  # a box after empty tags is read
        tagged = text.rpartition("<answer>")[2]
    boxed = boxed_answer(text if tagged is None else tagged)
    return TAGS_WEIGHT * closed + BOX_WEIGHT * (boxed is not None)


def _is_text_of_mathematics(answer: str) -> bool:
    """Whether an answer has only signs of mathematics, no tag, and braces that close."""
    if not answer or len(answer) > 2 * _LONGEST or not _SIGNS.fullmatch(answer):
        return False
    if any(tag in answer for tag in TAGS) or "####" in answer:
        return False
    braces = re.sub(r"\\.", "", answer, flags=re.DOTALL)
    return boxed_answer(f"\\boxed{{{braces}}}") == braces.strip() and "\\boxed" not in answer


def _may_be_latex(answer: str) -> bool:
    """Whether an answer is worth the question to computer algebra: mathematics, no bomb, no pile."""
    return _is_text_of_mathematics(answer) and not _BOMB.search(answer) and not _PILE.search(answer)


def _decided(answer: str, gold: str) -> bool | None:
    """Whether an answer is right, where that takes no worker to see; None where it does."""
    if answer and "".join(answer.split()) == "".join(gold.split()):
        return True
    if not _is_text_of_mathematics(answer):
        return False
    if _EXCLUDED.search(answer) and not _EXCLUDED.search(gold):
        return False
    answer, gold = (_BASE_WORD.sub(r"_{\1}", text) for text in (answer, gold))
    bases, wanted = _bases(answer), _bases(gold)
    if bases and bases != (wanted or ["10"] * len(bases)):
        return False
    if bases or wanted:  # the same digits, with the base or without
        answer, gold = (_BASE.sub(r"\1", text) for text in (answer, gold))
        if "".join(answer.split()) == "".join(gold.split()):
            return True
    decided = decide(answer, gold)
    return False if decided is None and not _may_be_latex(answer) else decided


def _bases(latex: str) -> list[str]:
    return sorted(match[2] or match[3] for match in _BASE.finditer(latex))


@cache
def _pool() -> WorkerPool:
    return WorkerPool(
        "dmpo.rewards.algebra:compare",
        prepare="dmpo.rewards.algebra:warm_up",
        cpu_limit=CPU_LIMIT,
        memory_limit=MEMORY_LIMIT,
        singly=True,
    )
