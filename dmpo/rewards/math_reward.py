r"""MATH: whether an answer in LaTeX is equivalent to the right one, and the reward for it.

math-verify compares the answers that our own parser cannot read. sympy may compute `9^{9^{9}}` until the memory is
full. So math-verify runs in worker processes that can be killed. The operating system ends a worker after CPU_LIMIT
seconds of CPU time for one pair; then the pair is not equivalent and counts as a failure.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from .answers import TAGS, bare_answer, boxed_answer, gold_of_solution, read_answer, tagged_answer
from .equivalence import decide
from .latex_text import plain_latex
from .outcomes import Scores, note_failures
from .worker_pool import WorkerPool

TAGS_WEIGHT = 0.5
BOX_WEIGHT = 0.5
CORRECT_WEIGHT = 2.0
CPU_LIMIT = 0.7  # CPU seconds of one comparison; a usual comparison takes 0.001 to 0.1
MEMORY_LIMIT = 4 << 30  # bytes of address space of a worker

_LONGEST = 300  # characters; the longest answer in MATH's test split has 160
_NUMBER = r"[\s{(]*[0-9]+[\s})]*"
_HUGE_NUMBERS = re.compile(  # expressions for whose digits computer algebra would fill the memory
    rf"(?:\^|\*\*){_NUMBER}(?:\^|\*\*)|(?:\^|\*\*)[\s{{(]*[0-9]{{5}}"
    r"|[0-9]{4}[\s})]*!|![\s})]*!|binom\s*\{[0-9]{5}|[A-Za-z][^()]*\)\s*(?:\^|\*\*)[\s{(]*[0-9]{3}"
)

# ASCII, Latin and Greek letters, and the signs that people type instead of LaTeX's. Emoji and the digits of other
# scripts are excluded.
_SIGNS = re.compile(r"[\s!-~\u00a1-\u024f\u0370-\u03ff\u2010-\u2027\u2030-\u205e\u2070-\u22ff\u27e8\u27e9]*")
_DEEP_NESTING = re.compile(r"(?:[-+]\s*){5}|(?:[(\[{]\s*){20}|(?:\\(?:sqrt|frac)\s*\{[^{}]*){12}")

# The base of a number: 1A_{16}, but not log_2, x_2 or _5C_2.
_BASE = re.compile(r"(?<![0-9A-Z_])(?=[A-F]*[0-9])([0-9A-F]+)\s*_\s*(?:\{\s*([1-3]?[0-9])\s*\}|([1-3]?[0-9])(?![0-9]))")
_BASE_WORD = re.compile(r"(?<=[0-9A-F])\s*(?:\\text\s*\{)?\s*\(?(?:in\s)?base[\s-]*([1-3]?[0-9])\)?\s*\}?\s*$")
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff\u00ad"))  # spaces of no width
_EXCLUDED = re.compile(r"\\(?:neq?|not|notin)(?![A-Za-z])|[≠∉]")  # the answer excludes a value


def math_answer(completion: str) -> str | None:
    r"""The LaTeX of a completion's answer; None if the completion has no answer, or one of over 300 characters.

    The answer is the text of the last <answer>, and a \boxed around it is removed. Without tags it is the last \boxed.
    Without tags and box, a completion of one short line is itself the answer.
    """
    answer = read_answer(completion)
    if answer is None:
        answer = bare_answer(completion, _LONGEST)
    return answer if answer and len(answer) <= _LONGEST else None


def gold_latex(answer: Any) -> str:
    r"""The LaTeX of a right answer: the content of its boxes (of a whole solution), or without boxes all of it."""
    boxed = gold_of_solution(str(answer))
    return str(answer).strip() if boxed is None else boxed


def equivalent(pairs: list[tuple[str, str]]) -> Scores:
    """For each pair (answer, right answer) in LaTeX: 1 if the two are equivalent, else 0.

    `equivalence` compares the pairs that it can parse. Workers compare the others, and start when the first such pair
    comes. A pair that exceeds a worker's limits scores 0 and is a failure.
    """
    pairs = [(answer.translate(_INVISIBLE).strip(), gold.strip()) for answer, gold in pairs]
    decided = {pair: _decided(*pair) for pair in pairs}
    by_pair = {pair: Scores([float(same)]) for pair, same in decided.items() if same is not None}
    undecided = [pair for pair in decided if pair not in by_pair]
    if undecided:
        plain = [tuple(map(plain_latex, pair)) for pair in undecided]
        worker_scores = _pool().score([pair[0] for pair in plain], {"gold": [pair[1] for pair in plain]})
        failures = {failure.row: [failure] for failure in worker_scores.failures}
        for index, pair in enumerate(undecided):
            by_pair[pair] = Scores([worker_scores.values[index]], failures.get(index, []))
    scores = Scores([by_pair[pair].values[0] for pair in pairs])
    for index, pair in enumerate(pairs):
        scores.failures.extend(failure._replace(row=index) for failure in by_pair[pair].failures)
    return scores


def math_correct(completions: list[str], answer: list[Any]) -> list[bool]:
    """Whether each completion gives its right answer."""
    answers = [math_answer(text) for text in completions]
    # "" stands for a missing answer, because no right answer is empty.
    scores = equivalent([(text or "", gold_latex(gold)) for text, gold in zip(answers, answer, strict=True)])
    note_failures(scores.failures)
    return [text is not None and value == 1 for text, value in zip(answers, scores.values, strict=True)]


def math(completions: list[str], answer: list[Any], **_: Any) -> list[float]:
    r"""The reward of the form and of the right answer; in [0, 3].

    An answer in closed <answer> tags adds TAGS_WEIGHT. An answer in a \boxed adds BOX_WEIGHT; if there are tags, the
    box must stand between them. An answer that is equivalent to `answer` (LaTeX, or a solution with a \boxed) adds
    CORRECT_WEIGHT. The total for the form and the weight of the answer are from d1 (arXiv 2504.12216, appendix).
    """
    return [
        _form(text) + CORRECT_WEIGHT * right
        for text, right in zip(completions, math_correct(completions, answer), strict=True)
    ]


def _form(text: str) -> float:
    tagged = tagged_answer(text)
    closed = tagged is not None and "</answer>" in text[text.rindex("<answer>") :]
    if tagged == "":  # a box after empty tags counts
        tagged = text.rpartition("<answer>")[2]
    boxed = boxed_answer(text if tagged is None else tagged)
    return TAGS_WEIGHT * closed + BOX_WEIGHT * (boxed is not None)


def _is_text_of_mathematics(answer: str) -> bool:
    """Whether an answer has only mathematical signs, no tag, and only braces that close."""
    if not answer or len(answer) > 2 * _LONGEST or not _SIGNS.fullmatch(answer):
        return False
    if any(tag in answer for tag in TAGS) or "####" in answer:
        return False
    braces = re.sub(r"\\.", "", answer, flags=re.DOTALL)
    return boxed_answer(f"\\boxed{{{braces}}}") == braces.strip() and "\\boxed" not in answer


def _may_be_latex(answer: str) -> bool:
    """Whether computer algebra may compare an answer: it is mathematics, and neither too large nor too nested."""
    return _is_text_of_mathematics(answer) and not _HUGE_NUMBERS.search(answer) and not _DEEP_NESTING.search(answer)


def _decided(answer: str, gold: str) -> bool | None:
    """Whether an answer is right, if no worker is needed to decide it; else None."""
    if answer and "".join(answer.split()) == "".join(gold.split()):
        return True
    if not _is_text_of_mathematics(answer):
        return False
    if _EXCLUDED.search(answer) and not _EXCLUDED.search(gold):
        return False
    answer, gold = (_BASE_WORD.sub(r"_{\1}", text) for text in (answer, gold))
    bases, gold_bases = _bases(answer), _bases(gold)
    if bases and bases != (gold_bases or ["10"] * len(bases)):
        return False
    if bases or gold_bases:  # the digits must agree; the answer may omit the base
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
