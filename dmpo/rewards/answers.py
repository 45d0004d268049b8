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
_MOST_BOXES = 16  # at the end of a text; those before are not read
_FARTHEST = 200  # characters between two boxes of one sentence
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is a sign of its own
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_BLANKS = re.compile(r"(?:[ \t]{0,20}\r?\n)?[ \t]{0,20}")  # blanks and at most one line end
_UNBRACED = re.compile(
    r"[-+−.(\[|]{0,3}\s?(?:[0-9]|\\[A-Za-z{$]|[A-Za-z](?![A-Za-z]))"
)  # how a box without braces starts
_UNBRACED_END = re.compile(r"(?<!\\)\$|\\[)\]]|\n")
_NEGATED = re.compile(r"\b(?:not|never|isn't|no)\s+(?:\\\(|\\\[|\$|\*\*)?\s*$", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?:\s|\$|\\[)\]]|$)|\n\s*\n|</?[a-z]{2,20}>")
_JOINER = re.compile(r"[,;&]|\b(?:and|or)\b|^[\s$\\()\[\]]*$", re.IGNORECASE)
# What replaces a box by the next one, or says that the two are the same.
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
    """A text less the special tokens of tokenizers at its end (`<|eot_id|>`, `</s>`, ...) and the space around them."""
    end = len(text)
    while True:
        while end and text[end - 1].isspace():
            end -= 1
        start = max(text.rfind("<", max(0, end - _LONGEST_TOKEN), end), text.rfind("[", max(0, end - 5), end))
        if start < 0 or not _ENDING_TOKEN.fullmatch(text, start, end):
            return text if end == len(text.rstrip()) else text[:end]
        end = start


def tagged_answer(text: str) -> str | None:
    """What stands between the last <answer> and the </answer> after it, or the end; None without an <answer>.

    An answer that no tag closes ends before the first special token (`<|eot_id|>`)."""
    _, tag, answer = text.rpartition("<answer>")
    if not tag:
        return None
    answer, closing, _ = answer.partition("</answer>")
    if not closing:
        answer = _SPECIAL_TOKEN.split(without_special_tokens(answer), maxsplit=1)[0]
    return answer.strip()


def boxed_answers(text: str) -> list[str]:
    r"""What stands in the boxes (\boxed, \fbox) of the answering sentence, in their order; [] without a box.

    The answering sentence is the one with the last box. Boxes before it in that sentence are answers, too, where a
    comma, "and", "or" or nothing joins them ("$\boxed{1}$ or $\boxed{9}$"), and not where words revise them
    ("$\boxed{1}$, or rather $\boxed{9}$"). A box after "not" is none. Blanks and one line end may precede the braces. A
    box without braces
    (`\boxed 2$`) reaches to the end of its formula, or to the next blank where no sign ends the formula. Where the
    braces of the last box are not closed within `_LONGEST_BOX` characters, there is no answer.
    """
    starts = _last_boxes(text)
    boxes: list[tuple[int, int, str]] = []  # from, to, what is inside
    for index, start in enumerate(starts):
        if boxes and start < boxes[-1][1]:  # a box in a box
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
    r"""What stands in the last \boxed or \fbox, see `boxed_answers`; None without one."""
    answers = boxed_answers(text)
    return answers[-1] if answers else None


def gold_of_solution(text: str) -> str | None:
    r"""The right answer that a solution states: its `boxed_answers`, separated by commas (`1,9`).

    None where it has no box, or where all boxes of the answering sentence are empty.
    """
    return joined(boxed_answers(text)) or None


def joined(answers: list[str]) -> str:
    """Several answers as one list, each different one once: `1,9`; with a blank where `1,900` would be one number."""
    distinct = list(dict.fromkeys(answer for answer in answers if answer))
    grouped = any(re.match(r"[0-9]{3}(?![0-9])", answer) for answer in distinct[1:])
    return (", " if grouped else ",").join(distinct)


def read_answer(text: str) -> str | None:
    r"""The answer: in the tags, less a \boxed around it; without tags in the last \boxed; None without either.

    Several boxes of one sentence are a list, with commas. Where the tags are empty, a box after them counts.
    """
    text = without_special_tokens(text)
    answer = tagged_answer(text)
    if answer == "":
        answer = text.rpartition("<answer>")[2].partition("</answer>")[2]
        return joined(boxed_answers(answer))
    boxes = boxed_answers(text if answer is None else answer)
    return joined(boxes) if boxes else answer


def _last_boxes(text: str) -> list[int]:
    """Where the last boxes of a text start, at most `_MOST_BOXES`."""
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
    """The end of the box that starts there and what is inside; None where it is none, or not closed."""
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
    """What a box holds, less a box in it around all of it."""
    for _ in range(_MOST_BOXES):
        command = _BOX.match(inside)
        inner = _box_at(inside, 0) if command and inside.endswith("}") else None
        if not inner or inner[0] != len(inside):
            break
        inside = inner[1]
    return inside


def bare_answer(text: str, longest: int) -> str | None:
    """A completion that is all answer: one line of at most `longest` characters, no tag and no box; else None."""
    text = without_special_tokens(text)
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
