"""A reward for Sudokus with several solutions, where the share of holes filled as in one of them would be noise."""

from __future__ import annotations

from typing import Any

from dmpo.rewards.sudoku_reward import HOLES, sudoku_cells, units


def units_complete(completions: list[str], puzzle: list[str], **_: Any) -> list[float]:
    """The share of rows, columns and boxes that hold each digit once, plus 1 if all do; in [0, 2].

    0 for a completion without a grid, or with a clue changed. puzzle: 16 cells, each a digit or a hole.
    """
    return [_score(text, clues) for text, clues in zip(completions, puzzle, strict=True)]


def _score(text: str, clues: str) -> float:
    cells = sudoku_cells(text, 4)
    if cells is None or any(clue not in HOLES and int(clue) != cell for clue, cell in zip(clues, cells, strict=True)):
        return 0.0
    whole = [len({cells[i] for i in unit}) == 4 for unit in units(4)]
    return sum(whole) / len(whole) + all(whole)
