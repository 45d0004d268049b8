r"""The answer in a completion, and how well the completion keeps the form that was asked for.

The form: `<reasoning>…</reasoning>`, then `<answer>…</answer>`, on any number of lines. An answer may also, or only, be
in `\boxed{…}`. Every function here takes time linear in the text and never raises on one.
"""

from __future__ import annotations

import re

TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
TAG_WEIGHT = 0.125
ORDER_WEIGHT = 0.5
WHOLE_WEIGHT = 0.5
FORM_WEIGHT = len(TAGS) * TAG_WEIGHT + ORDER_WEIGHT + WHOLE_WEIGHT
"""The most that `form_score` gives."""

_BOXES = ("\\boxed", "\\fbox")
_LONGEST_BOX = 5000
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is a sign of its own


def tagged_answer(text: str) -> str | None:
    """What stands between the last <answer> and the </answer> after it, or the end; None without an <answer>."""
    _, tag, answer = text.rpartition("<answer>")
    return answer.partition("</answer>")[0].strip() if tag else None


def boxed_answer(text: str) -> str | None:
    r"""What stands in the braces of the last \boxed or \fbox; None without one, or where its braces are not closed
    within `_LONGEST_BOX` characters."""
    start, command = max((text.rfind(box + "{"), box) for box in _BOXES)
    if start < 0:
        return None
    start += len(command) + 1
    box, depth = text[start : start + _LONGEST_BOX], 1
    for brace in _BRACES.finditer(box):
        depth += (brace[0] == "{") - (brace[0] == "}")
        if depth == 0:
            return box[: brace.start()].strip()
    return None


def read_answer(text: str) -> str | None:
    r"""The answer: in the tags, less a \boxed around it; without tags in the last \boxed; None without either."""
    answer = tagged_answer(text)
    boxed = boxed_answer(text if answer is None else answer)
    return answer if boxed is None else boxed


def bare_answer(text: str, longest: int) -> str | None:
    """A completion that is all answer: one line of at most `longest` characters, no tag and no box; else None."""
    bare = text.strip() if len(text) <= 2 * longest + 100 else ""
    marked = any(mark in bare for mark in (*TAGS, *_BOXES))
    return bare if 0 < len(bare) <= longest and "\n" not in bare and not marked else None


def form_score(text: str) -> float:
    """How well a completion keeps the form, from 0 to FORM_WEIGHT.

    TAG_WEIGHT for each of the four tags that occurs exactly once; ORDER_WEIGHT if all four do, in order and with
    nothing but white space between </reasoning> and <answer>; WHOLE_WEIGHT if nothing stands before or after, too.
    The parts and weights are those of d1 (Zhao et al., arXiv 2504.12216, appendix), whose patterns stop at a newline;
    these do not.
    """
    once = [text.count(tag) == 1 for tag in TAGS]
    score = TAG_WEIGHT * sum(once)
    if all(once):
        starts = [text.index(tag) for tag in TAGS]
        between = text[starts[1] + len(TAGS[1]) : starts[2]]
        if starts == sorted(starts) and not between.strip():
            score += ORDER_WEIGHT
            if text.strip().startswith(TAGS[0]) and text.strip().endswith(TAGS[3]):
                score += WHOLE_WEIGHT
    return score
