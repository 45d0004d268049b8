"""The columns that the score of a task asks for, from a record whose fields may have any of the usual names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from ..rewards.answers import boxed_answers, gold_of_solution
from ..rewards.gsm8k_reward import gold_number
from .cells import as_text, shown
from .records import Record
from .splits import Row

ANSWERS = ("ground_truth", "answer", "gold", "target", "solution")
PROMPTS = ("prompt", "question", "problem", "input")


def field_of(record: Record, name: str | None, candidates: Sequence[str], what: str) -> Any:
    """The value under `name`, or under the first of the candidates that the record has.

    Raises:
        ValueError: there is none; says which fields there are.
    """
    for key in (name,) if name is not None else candidates:
        if record.get(key) is not None:
            return record[key]
    wanted = repr(name) if name is not None else f"any of {', '.join(candidates)}"
    raise ValueError(f"has no {what} ({wanted}); its fields are {', '.join(map(str, record))}")


def row_of(task: str, record: Record, answer: str | None) -> Row:
    """The columns of a record that the task's score asks for.

    Raises:
        ValueError: they are not there, or no right answer can be read from them.
    """
    if isinstance(record.get("columns"), dict) and answer is None:  # of `dmpo eval` itself
        return dict(record["columns"])
    return _ROWS.get(task, _any_row)(record, answer)


def _any_row(record: Record, answer: str | None) -> Row:
    return record | {"answer": field_of(record, answer, ANSWERS, "right answer")}


def _stated(record: Record, answer: str | None) -> str:
    """The first right answer of a record that is a text or a number; for one that is empty, another may stand in."""
    fields = [name for name in ((answer,) if answer is not None else ANSWERS) if name in record]
    for name in fields:
        if (text := as_text(record[name])) is not None:
            return text
    value = field_of(record, answer, ANSWERS, "right answer") if not fields else record[fields[0]]
    raise ValueError(f"right answer {fields[0]}: must be a text or a number, got {shown(value)}")


def _number_row(record: Record, answer: str | None) -> Row:
    text = _stated(record, answer)
    if gold_number(text) is None:
        raise ValueError(f"right answer states no number: {shown(text)}")
    return {"answer": text}


def _latex_row(record: Record, answer: str | None) -> Row:
    text = _stated(record, answer)
    latex = gold_of_solution(text) if boxed_answers(text) else text
    if not latex:
        raise ValueError(f"right answer is an empty box: {shown(text)}")
    return {"answer": latex}


def _countdown_row(record: Record, answer: str | None) -> Row:
    """`numbers` (or `nums`) and `target`, or both as a pair in the answer."""
    named = [name for name in (answer, "ground_truth", "answer") if name is not None]
    pair: list[Any] = next((record[name] for name in named if isinstance(record.get(name), list)), [])
    if len(pair) != 2 or not isinstance(pair[0], list):
        pair = [field_of(record, None, ("numbers", "nums"), "numbers"), field_of(record, answer, ("target",), "target")]
    numbers, target = pair
    if isinstance(numbers, str):  # a table in text has no lists
        numbers = numbers.strip("[] ").replace(",", " ").split()
    try:
        return {"numbers": [int(number) for number in numbers], "target": int(target)}
    except (TypeError, ValueError):
        raise ValueError(f"must have a list of integers and an integer target, got {pair!r:.80}") from None


def _sudoku_row(size: int) -> Callable[[Record, str | None], Row]:
    grid = re.compile(rf"(?<![0-9.])[0-9.]{{{size * size}}}(?![0-9])")

    def row(record: Record, answer: str | None) -> Row:
        """`puzzle`, however spaced, or the last that is written in the prompt; holes are . or 0."""
        puzzle = record.get("puzzle")
        if isinstance(puzzle, str) and grid.fullmatch(together := "".join(puzzle.split())):
            return {"puzzle": together}
        grids = grid.findall(str(field_of(record, None, ("puzzle", *PROMPTS), "puzzle")))
        if not grids:
            raise ValueError(f"puzzle must be {size * size} digits and dots; the record has no such text")
        return {"puzzle": grids[-1]}

    return row


_ROWS: dict[str, Callable[[Record, str | None], Row]] = {
    "gsm8k": _number_row,
    "math": _latex_row,
    "countdown": _countdown_row,
    "sudoku4": _sudoku_row(4),
    "sudoku9": _sudoku_row(9),
}
