"""Sudoku, 4×4 and 9×9: the grid in a completion, whether it solves a puzzle, and the reward for it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from .answers import boxed_answer

HOLES = ".0"  # both marks are in use for an empty cell
_FRAME = dict.fromkeys(map(ord, "|-+,[]│┃─━┼╋┌┐└┘├┤┬┴║═╬╔╗╚╝╠╣╦╩`*;:()"))  # what a drawn grid may hold

_PUZZLES = re.compile(r"[1-4.0]{16}|[1-9.0]{81}")
_SOLUTIONS = re.compile(r"[1-4]{16}|[1-9]{81}")


def sudoku_cells(text: str, size: int = 4) -> list[int] | None:
    r"""The grid in a completion, row by row; None where there is none.

    A grid is exactly size² digits 1..size, white space, commas, brackets, lines, marks of bold or code and a final
    period aside: the whole text, or what stands between the last <answer> and </answer>, or in the last \boxed.
    """
    _, tag, answer = text.rpartition("<answer>")
    text = answer.partition("</answer>")[0] if tag else text
    boxed = boxed_answer(text[-40 * size * size :])
    text = text if boxed is None else boxed
    text = "".join(text.split()).translate(_FRAME).removesuffix(".") if len(text) <= 16 * size * size else ""
    if len(text) != size * size or any(c not in "123456789"[:size] for c in text):
        return None
    return [int(c) for c in text]


@cache
def units(size: int) -> tuple[tuple[int, ...], ...]:
    """The cells of every row, column and box of a grid, as indices 0..size²-1."""
    box = math.isqrt(size)
    rows = [tuple(range(r * size, (r + 1) * size)) for r in range(size)]
    columns = [tuple(range(c, size * size, size)) for c in range(size)]
    boxes = [
        tuple(r * size + c for r in range(top, top + box) for c in range(left, left + box))
        for top in range(0, size, box)
        for left in range(0, size, box)
    ]
    return (*rows, *columns, *boxes)


def is_sudoku(cells: Sequence[int], size: int = 4) -> bool:
    """Whether every row, column and box holds every digit once."""
    digits = set(range(1, size + 1))
    return all({cells[i] for i in unit} == digits for unit in units(size))


def sudoku_solved(completion: str, puzzle: str) -> bool:
    """Whether a completion is a valid grid of the puzzle's size that keeps its clues.

    Raises:
        ValueError: the puzzle is not one of 16 or 81 cells, digits and HOLES.
    """
    puzzle = _column("puzzle", puzzle, _PUZZLES)
    size = math.isqrt(len(puzzle))
    cells = sudoku_cells(completion, size)
    if cells is None:
        return False
    return is_sudoku(cells, size) and all(p in HOLES or int(p) == c for p, c in zip(puzzle, cells, strict=True))


def sudoku(completions: list[str], puzzle: list[str], solution: list[str], **_: Any) -> list[float]:
    """Share of holes filled as in the solution, plus 1 for a solved puzzle; in [0, 2].

    A completion that is not a grid scores 0: the form is asked for by that alone. A valid grid that keeps the clues is
    solved even where it differs from the recorded solution. Puzzles have 16 or 81 cells.

    Raises:
        ValueError: a puzzle or solution that is none, or a solution of another size than its puzzle.
    """
    scores = []
    for text, given, recorded in zip(completions, puzzle, solution, strict=True):
        clues, answer = _column("puzzle", given, _PUZZLES), _column("solution", recorded, _SOLUTIONS)
        if len(answer) != len(clues):
            raise ValueError(f"column solution has {len(answer)} cells for a puzzle of {len(clues)}")
        cells = sudoku_cells(text, math.isqrt(len(clues)))
        if cells is None:
            scores.append(0.0)
            continue
        holes = [i for i, p in enumerate(clues) if p in HOLES]
        right = sum(cells[i] == int(answer[i]) for i in holes) / max(1, len(holes))
        scores.append(right + sudoku_solved(text, clues))
    return scores


def _column(name: str, value: Any, form: re.Pattern[str]) -> str:
    """One value of a column, as its cells alone."""
    text = "".join(str(value).split())
    if not form.fullmatch(text):
        holes = f", {' or '.join(HOLES)} for a hole" if name == "puzzle" else ""
        raise ValueError(f"column {name} must hold texts of 16 or 81 digits{holes}, got {value!r:.100}")
    return text
