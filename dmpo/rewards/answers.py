r"""Find the answer in a completion, and score how well the completion keeps the form that the prompt asks for.

The form is `<reasoning>…</reasoning>`, then `<answer>…</answer>`, on any number of lines. The answer may stand in
`\boxed{…}`, inside the tags or without tags. Every function here takes time linear in the text and raises on no text.
"""

from __future__ import annotations

import re

TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
TAG_WEIGHT = 0.125
ORDER_WEIGHT = 0.5
WHOLE_WEIGHT = 0.5
FORM_WEIGHT = len(TAGS) * TAG_WEIGHT + ORDER_WEIGHT + WHOLE_WEIGHT
"""The highest value of `form_score`."""

_BOXES = ("\\boxed", "\\fbox")
_LONGEST_BOX = 5000
_MOST_BOXES = 16  # only the last boxes of a text are read
_FARTHEST = 200  # characters between two boxes of one sentence
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace neither opens nor closes a group
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_BLANKS = re.compile(r"(?:[ \t]{0,20}\r?\n)?[ \t]{0,20}")  # blanks and at most one line end
_UNBRACED = re.compile(
    r"[-+−.(\[|]{0,3}\s?(?:[0-9]|\\[A-Za-z{$]|[A-Za-z](?![A-Za-z]))"
)  # how a box without braces starts
_UNBRACED_END = re.compile(r"(?<!\\)\$|\\[)\]]|\n")
_NEGATED = re.compile(r"\b(?:not|never|isn't|no)\s+(?:\\\(|\\\[|\$|\*\*)?\s*$", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?:\s|\$|\\[)\]]|$)|\n\s*\n|</?[a-z]{2,20}>")
_JOINER = re.compile(r"[,;&]|\b(?:and|or)\b|^[\s$\\()\[\]]*$", re.IGNORECASE)
# Words and signs between two boxes which say that the second box replaces the first, or equals it.
_REVISED = re.compile(
    r"=\s*$|≈|\\(?:approx|equiv|implies|to|Rightarrow)(?![A-Za-z])|"
    r"\b(?:then|rather|actually|instead|no|not|wait|but|corrected|correction|correctly|so|thus|hence|therefore|"
    r"which|that|i\.e|simplif\w*|becomes?|equals?|equivalent\w*|gives?|sorry|oops|finally)\b",
    re.IGNORECASE,
)
_SPECIAL_TOKEN = re.compile(r"<\|[A-Za-z0-9_]{1,40}\|>")
_ENDING_TOKEN = re.compile(
    r"<\|[A-Za-z0-9_]{1,40}\|>|</?s>|<(?:eos|bos|pad|unk|eot|end_of_turn|start_of_turn)>|\[(?:EOS|PAD)\]"
)
_LONGEST_TOKEN = 50


def without_special_tokens(text: str) -> str:
    """The text without the tokenizer's special tokens at its end (`<|eot_id|>`, `</s>`, ...) and the spaces there."""
    end = len(text)
    while True:
        while end and text[end - 1].isspace():
            end -= 1
        start = max(text.rfind("<", max(0, end - _LONGEST_TOKEN), end), text.rfind("[", max(0, end - 5), end))
        if start < 0 or not _ENDING_TOKEN.fullmatch(text, start, end):
            return text if end == len(text.rstrip()) else text[:end]
        end = start


def tagged_answer(text: str) -> str | None:
    """The text between the last <answer> and the next </answer>; None where there is no <answer>.

    Without a closing tag the answer ends before the first special token (`<|eot_id|>`), or where the text ends.
    """
    _, tag, answer = text.rpartition("<answer>")
    if not tag:
        return None
    answer, closing, _ = answer.partition("</answer>")
    if not closing:
        answer = _SPECIAL_TOKEN.split(without_special_tokens(answer), maxsplit=1)[0]
    return answer.strip()


def boxed_answers(text: str) -> list[str]:
    r"""The contents of the boxes (\boxed, \fbox) in the last sentence that has a box, in order; [] without a box.

    The last box is always an answer. An earlier box of the same sentence is an answer too, if a comma, "and", "or" or
    nothing joins the two ("$\boxed{1}$ or $\boxed{9}$"). It is no answer if words revise it ("$\boxed{1}$, or rather
    $\boxed{9}$"). A box after "not" is ignored. Spaces and one line break may stand before the braces. A box without
    braces (`\boxed 2$`) ends with its formula; where no sign ends the formula, the box ends at the next space. If the
    braces of the last box do not close within `_LONGEST_BOX` characters, there is no answer.
    """
    starts = _last_boxes(text)
    boxes: list[tuple[int, int, str]] = []  # start, end, content
    for index, start in enumerate(starts):
        if boxes and start < boxes[-1][1]:  # a box inside a box
            continue
        box = _box_at(text, start)
        if box is not None and _NEGATED.search(text[max(0, start - 20) : start]):
            continue
        if box is not None:
            boxes.append((start, box[0], _unboxed(box[1])))
        elif index == len(starts) - 1 and _is_braced(text, start):
            return []
    answers = [inside for _, _, inside in boxes[-1:]]
    for (_, end, inside), (start, _, _) in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
        between = text[end:start] if start - end <= _FARTHEST else ""
        if not between and start != end:
            break
        if _SENTENCE_END.search(between) or _REVISED.search(between) or not _JOINER.search(between):
            break
        answers.insert(0, inside)
    return answers


def boxed_answer(text: str) -> str | None:
    r"""The content of the last \boxed or \fbox (see `boxed_answers`); None without a box."""
    answers = boxed_answers(text)
    return answers[-1] if answers else None


def gold_of_solution(text: str) -> str | None:
    r"""The right answer that a solution states: its `boxed_answers`, separated by commas (`1,9`).

    The result is None if the solution has no box, or if all boxes of the last sentence with a box are empty.
    """
    return joined(boxed_answers(text)) or None


def joined(answers: list[str]) -> str:
    """Several answers as one list without repeats: `1,9`. A space follows the comma if `1,900` would be one number."""
    distinct = list(dict.fromkeys(answer for answer in answers if answer))
    grouped = any(re.match(r"[0-9]{3}(?![0-9])", answer) for answer in distinct[1:])
    return (", " if grouped else ",").join(distinct)


def read_answer(text: str) -> str | None:
    r"""The answer of a completion; None without tags and without a box.

    The answer stands between the tags, and a \boxed around it is removed. Without tags the last \boxed counts. If the
    tags are empty, a box after them counts. Several boxes of one sentence give a list with commas.
    """
    text = without_special_tokens(text)
    answer = tagged_answer(text)
    if answer == "":
        answer = text.rpartition("<answer>")[2].partition("</answer>")[2]
        return joined(boxed_answers(answer))
    boxes = boxed_answers(text if answer is None else answer)
    return joined(boxes) if boxes else answer


def _last_boxes(text: str) -> list[int]:
    """The positions of the last boxes of a text, at most `_MOST_BOXES`."""
    starts: list[int] = []
    end = len(text)
    while len(starts) < _MOST_BOXES:
        end = max(text.rfind(box, 0, end) for box in _BOXES)
        if end < 0:
            break
        starts.append(end)
    return starts[::-1]


def _is_braced(text: str, start: int) -> bool:
    command = _BOX.match(text, start)
    if not command:
        return False
    blanks = _BLANKS.match(text, command.end())
    return text.startswith("{", blanks.end() if blanks else command.end())


def _box_at(text: str, start: int) -> tuple[int, str] | None:
    """The end and the content of the box that starts at `start`; None if no box starts there or it does not close."""
    command = _BOX.match(text, start)
    if not command:
        return None
    blanks = _BLANKS.match(text, command.end())
    start = blanks.end() if blanks else command.end()
    if text.startswith("{", start):
        start += 1
        box, depth = text[start : start + _LONGEST_BOX], 1
        for brace in _BRACES.finditer(box):
            depth += (brace[0] == "{") - (brace[0] == "}")
            if depth == 0:
                return start + brace.end(), box[: brace.start()].strip()
        return None
    box = text[start : start + _LONGEST_BOX]
    if not _UNBRACED.match(box):
        return None
    end = _UNBRACED_END.search(box, 1)
    if end and end[0] != "\n":
        return start + end.start(), box[: end.start()].strip()
    inside = box.split(maxsplit=1)[0].rstrip(".,;:!?*")
    return start + len(inside), inside


def _unboxed(inside: str) -> str:
    """The content of a box; boxes inside it that surround all of the content are removed."""
    for _ in range(_MOST_BOXES):
        command = _BOX.match(inside)
        inner = _box_at(inside, 0) if command and inside.endswith("}") else None
        if not inner or inner[0] != len(inside):
            break
        inside = inner[1]
    return inside


def bare_answer(text: str, longest: int) -> str | None:
    """A completion that is only an answer: one line of at most `longest` characters, no tag and no box; else None."""
    text = without_special_tokens(text)
    bare = text.strip() if len(text) <= 2 * longest + 100 else ""
    marked = any(mark in bare for mark in (*TAGS, *_BOXES))
    return bare if 0 < len(bare) <= longest and "\n" not in bare and not marked else None


def form_score(text: str) -> float:
    """How well a completion keeps the form, from 0 to FORM_WEIGHT.

    Each of the four tags that occurs exactly once adds TAG_WEIGHT. If all four tags occur once and in order, and only
    white space stands between </reasoning> and <answer>, ORDER_WEIGHT is added. If, besides, no text stands before the
    first tag or after the last one, WHOLE_WEIGHT is added. d1 defines the conditions and the weights (Zhao et al.,
    arXiv 2504.12216, appendix); its patterns stop at a line break, ours do not.
    """
    text = without_special_tokens(text)
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
