"""Demonstrations for the pretraining of the embedded tiny models. They are right, or sloppy: they have mistakes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from ..rewards import HOLES
from . import Row
from .countdown_expressions import expressions

_TRIES = 1000  # the most draws of mistakes; some draws leave the expression right


@dataclass(frozen=True)
class Teacher:
    """Demonstrations of one task.

    tokens: the vocabulary after `<eos>` (which is also the padding) and `<mask>`.
    length: number of tokens of a completion; a shorter one is padded with `<eos>`.
    demonstrate: gives a completion of a row of the task. It has at most the given number of mistakes, because one
        mistake may undo another.
    """

    tokens: tuple[str, ...]
    length: int
    demonstrate: Callable[[Any, Row, Random, int], str]


def sudoku_demonstration(task: Any, row: Row, random: Random, mistakes: int) -> str:
    """The solution of a row; `mistakes` of its holes have a wrong digit."""
    cells = list(row["solution"])
    holes = [i for i, p in enumerate(row["puzzle"]) if p in HOLES]
    for hole in random.sample(holes, min(mistakes, len(holes))):
        cells[hole] = random.choice([digit for digit in "1234" if digit != cells[hole]])
    return "".join(cells)


def countdown_demonstration(task: Any, row: Row, random: Random, mistakes: int) -> str:
    """An expression of a row, without spaces. It is right without mistakes, and wrong with at most `mistakes` of them.

    The right expression is the shortest one; of several, the one whose numbers come in the largest order. A mistake is
    another sign, another digit, or other parentheses (added around two neighbours, or removed).

    Raises:
        ValueError: the row has not three numbers of one digit, the task has fewer than two signs (a mistake needs
            another sign), the numbers cannot make the target, or the mistakes leave the expression right.
    """
    numbers, target = row["numbers"], row["target"]
    if len(numbers) != 3 or not all(0 <= number <= 9 for number in numbers):
        raise ValueError(f"the teacher of countdown needs three numbers from 0 to 9, got {numbers}")
    if len(task.signs) < 2:
        raise ValueError(f"the teacher of countdown needs at least two signs, got {task.signs!r}")
    right = _right_texts(tuple(sorted(numbers)), task.signs).get(target)
    if right is None:
        raise ValueError(f"{numbers} cannot make {target} with the signs {task.signs}")
    if not mistakes:
        return right
    for _ in range(_TRIES):
        text = right
        for _ in range(mistakes):
            text = random.choice((_other_sign, _other_digit, _other_parentheses))(text, task.signs, random)
        if not task.solved(text, row):
            return text
    raise ValueError(f"{mistakes} mistakes leave {right} right in {_TRIES} draws; give more mistakes")


@cache
def _right_texts(numbers: tuple[int, ...], signs: str) -> Mapping[int, str]:
    """The teacher's expression for each integer that the numbers can make."""
    by_value: dict[int, list[str]] = {}
    for value, text in expressions(numbers, signs):
        if value.denominator == 1:
            by_value.setdefault(int(value), []).append(text.replace(" ", ""))
    return {value: min(texts, key=_preference) for value, texts in by_value.items()}


def _preference(text: str) -> tuple[int, list[int], str]:
    return len(text), [-int(number) for number in re.findall("[0-9]+", text)], text


def _other_sign(text: str, signs: str, random: Random) -> str:
    index = random.choice([i for i, c in enumerate(text) if c in signs])
    return text[:index] + random.choice([s for s in signs if s != text[index]]) + text[index + 1 :]


def _other_digit(text: str, signs: str, random: Random) -> str:
    index = random.choice([i for i, c in enumerate(text) if c.isdigit()])
    return text[:index] + random.choice([d for d in "123456789" if d != text[index]]) + text[index + 1 :]


def _other_parentheses(text: str, signs: str, random: Random) -> str:
    bare = text.replace("(", "").replace(")", "")
    ways = [bare, f"({bare[:3]}){bare[3:]}", f"{bare[:2]}({bare[2:]})"]
    return random.choice([way for way in ways if way != text])


TEACHERS: Mapping[str, Teacher] = {
    "sudoku4": Teacher((".", "1", "2", "3", "4"), 16, sudoku_demonstration),
    "countdown": Teacher((", ", "=", *"0123456789", *"+-*()"), 8, countdown_demonstration),
}
