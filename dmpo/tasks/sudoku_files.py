"""Files of 4×4 puzzles with the columns of the public ones, `Puzzle` and `Solution`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .cells import shown
from .records import Record
from .sources import read_rows
from .sudoku_grids import all_grids

Pair = tuple[str, str]  # puzzle, with 0 for a hole, and solution; 16 characters each

COLUMNS: Mapping[tuple[str, ...], str] = {
    ("Puzzle",): "16 digits row by row, 0 for a hole",
    ("Solution",): "the 16 digits of the solved grid",
}
_PUZZLE = re.compile(r"[0-4]{16}")
_NAMED = 5  # the most rows that a message names


def read_puzzles(source: str, split: str, revision: str | None = None) -> list[Pair]:
    """The puzzles of a file or of a hub data set, in its order. See `sources.read_rows`.

    Raises:
        ValueError: a column is missing, or a row is no puzzle with its solution. The message names the rows.
    """
    grids = frozenset(all_grids())
    pairs: list[Pair] = []
    wrong: list[str] = []
    for number, record in enumerate(read_rows(source, split, COLUMNS, revision=revision)):
        try:
            pairs.append(_pair(record, grids))
        except ValueError as error:
            wrong.append(f"row {number}: {error}")
    if wrong:
        more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise ValueError(
            f"data set {source}: {len(wrong)} of {len(wrong) + len(pairs)} rows are no puzzles with their solution, "
            f"counted from 0: {'; '.join(wrong[:_NAMED])}{more}"
        )
    return pairs


def _pair(record: Record, grids: frozenset[str]) -> Pair:
    puzzle, solution = (_text(record, name) for name in ("Puzzle", "Solution"))
    if not _PUZZLE.fullmatch(puzzle):
        hint = "; a spreadsheet drops leading zeros" if puzzle.isdigit() and len(puzzle) < 16 else ""
        raise ValueError(f"Puzzle must be 16 digits from 0 to 4, got {shown(puzzle)}{hint}")
    if "0" not in puzzle:
        raise ValueError(f"Puzzle must have a hole, 0, got {shown(puzzle)}")
    if solution not in grids:
        raise ValueError(f"Solution must be a valid grid of 16 digits from 1 to 4, got {shown(solution)}")
    if not solves(solution, puzzle):
        cell = next(i for i in range(16) if puzzle[i] not in ("0", solution[i]))
        raise ValueError(f"Solution has {solution[cell]} in cell {cell}, where Puzzle has {puzzle[cell]}")
    return puzzle, solution


def _text(record: Record, name: str) -> str:
    value = record[name]
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise ValueError(f"{name} must be a text of 16 digits, got {shown(value)}")
    return str(value).strip()


def solves(grid: str, puzzle: str) -> bool:
    """Whether a grid keeps the clues of a puzzle."""
    return all(mark in ("0", digit) for mark, digit in zip(puzzle, grid, strict=True))
