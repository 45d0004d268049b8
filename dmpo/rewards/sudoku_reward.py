"""Sudoku, 4×4 and 9×9: find the grid in a completion, check that it solves a puzzle, and reward it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from .answers import boxed_answer

HOLES = ".0"  # data sets use either mark for an empty cell
_FRAME = dict.fromkeys(map(ord, "|-+,[]│┃─━┼╋┌┐└┘├┤┬┴║═╬╔╗╚╝╠╣╦╩`*;:()"))  # what a drawn grid may hold

_PUZZLES = re.compile(r"[1-4.0]{16}|[1-9.0]{81}")
_SOLUTIONS = re.compile(r"[1-4]{16}|[1-9]{81}")


def sudoku_cells(text: str, size: int = 4) -> list[int] | None:
    r"""The cells of the grid in a completion, row by row; None if the completion has no grid.

    The grid is the text between the last <answer> and </answer>, or the last \boxed, or the whole completion. It must
    have exactly size² digits 1..size. White space, commas, brackets, lines, marks of bold or code and a final period
    are ignored.
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
    """The cells of every row, column and box of a grid, as indices from 0 to size²-1."""
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
    """Whether every row, column and box has every digit once."""
    digits = set(range(1, size + 1))
    return all({cells[i] for i in unit} == digits for unit in units(size))


def sudoku_solved(completion: str, puzzle: str) -> bool:
    """Whether a completion is a valid grid of the puzzle's size with the puzzle's clues unchanged.

    Raises:
        ValueError: the puzzle is not a text of 16 or 81 cells, each a digit or one of HOLES.
    """
    puzzle = _column("puzzle", puzzle, _PUZZLES)
    size = math.isqrt(len(puzzle))
    cells = sudoku_cells(completion, size)
    if cells is None:
        return False
    return is_sudoku(cells, size) and all(p in HOLES or int(p) == c for p, c in zip(puzzle, cells, strict=True))


def sudoku(completions: list[str], puzzle: list[str], solution: list[str], **_: Any) -> list[float]:
    """The share of holes filled as in the solution, plus 1 for a solved puzzle; in [0, 2].

    A completion without a grid scores 0; the form has no other reward. A valid grid with the clues unchanged is solved
    even if it differs from the given solution. Puzzles have 16 or 81 cells.

    Raises:
        ValueError: a puzzle or a solution is malformed, or the two have different numbers of cells.
    """
    scores = []
    for text, given, recorded in zip(completions, puzzle, solution, strict=True):
        clues, answer = _column("puzzle", given, _PUZZLES), _column("solution", recorded, _SOLUTIONS)
        if len(answer) != len(clues):
            raise ValueError(
                f"column solution must have {len(clues)} cells, as many as its puzzle, got {len(answer)} cells"
            )
        cells = sudoku_cells(text, math.isqrt(len(clues)))
        if cells is None:
            scores.append(0.0)
            continue
        holes = [i for i, p in enumerate(clues) if p in HOLES]
        right = sum(cells[i] == int(answer[i]) for i in holes) / max(1, len(holes))
        scores.append(right + sudoku_solved(text, clues))
    return scores


def sudoku_holes(completions: list[str], puzzle: list[str], solution: list[str], **_: Any) -> list[float]:
    """The share of holes filled as in the solution, in [0, 1]: the reward and the published measure of d1.

    Not whether a puzzle is solved: published tables of 4×4 Sudoku give the mean of this share. The grid is the text of
    the last <answer>, or else the last run of as many digits as the puzzle has cells. Of a longer text the first cells
    count, and cells that a shorter one lacks are wrong; so a text that is no valid grid has a share, too. See d1's
    `diffu-grpo/reward_func.py` and `eval/parse_and_get_acc.py` (arXiv 2504.12216).

    Raises:
        ValueError: as `sudoku`.
    """
    shares = []
    for text, given, recorded in zip(completions, puzzle, solution, strict=True):
        clues, right = _column("puzzle", given, _PUZZLES), _column("solution", recorded, _SOLUTIONS)
        if len(right) != len(clues):
            raise ValueError(
                f"column solution must have {len(clues)} cells, as many as its puzzle, got {len(right)} cells"
            )
        cells = _digits(text, len(clues))
        holes = [i for i, mark in enumerate(clues) if mark in HOLES]
        shares.append(sum(cells[i : i + 1] == right[i] for i in holes) / max(1, len(holes)))
    return shares


def _digits(text: str, count: int) -> str:
    _, tag, answer = text.rpartition("<answer>")
    if tag:
        return re.sub(r"[^0-9]", "", answer.partition("</answer>")[0])
    runs = re.findall(rf"(?<![0-9])[0-9]{{{count}}}(?![0-9])", text)
    return runs[-1] if runs else ""


def _column(name: str, value: Any, form: re.Pattern[str]) -> str:
    """The cells in one value of a column."""
    text = "".join(str(value).split())
    if not form.fullmatch(text):
        holes = f", {' or '.join(HOLES)} for a hole" if name == "puzzle" else ""
        raise ValueError(f"column {name} must hold texts of 16 or 81 digits{holes}, got {value!r:.100}")
    return text
