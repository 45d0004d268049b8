"""Rewards: pure functions `(completions, **columns) -> list[float]`, bounded in time, that never raise on any text.

A user's reward is a plain function of the same form, named in the config as `module:function`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

Reward = Callable[..., list[float]]

HOLES = ".0"  # both marks are in use for an empty cell


def sudoku_cells(text: str, size: int = 4) -> list[int] | None:
    """The grid in a completion, row by row; None where there is none.

    A grid is exactly size² digits 1..size, white space aside: the whole text, or what stands between the last <answer>
    and </answer>.
    """
    _, tag, answer = text.rpartition("<answer>")
    text = answer.partition("</answer>")[0] if tag else text
    text = "".join(text.split()) if len(text) <= 8 * size * size else ""
    if len(text) != size * size or any(c not in "123456789"[:size] for c in text):
        return None
    return [int(c) for c in text]


def is_sudoku(cells: Sequence[int], size: int = 4) -> bool:
    """Whether every row, column and box holds every digit once."""
    box = math.isqrt(size)
    units = [[(r, c) for c in range(size)] for r in range(size)] + [[(r, c) for r in range(size)] for c in range(size)]
    units += [
        [(r, c) for r in range(top, top + box) for c in range(left, left + box)]
        for top in range(0, size, box)
        for left in range(0, size, box)
    ]
    return all({cells[r * size + c] for r, c in unit} == set(range(1, size + 1)) for unit in units)


def sudoku_solved(completion: str, puzzle: str) -> bool:
    """Whether a completion is a valid 4×4 grid that keeps the puzzle's clues."""
    cells = sudoku_cells(completion)
    if cells is None or len(puzzle) != len(cells):
        return False
    return is_sudoku(cells) and all(p in HOLES or int(p) == c for p, c in zip(puzzle, cells, strict=True))


def sudoku(completions: list[str], puzzle: list[str], solution: list[str], **_: Any) -> list[float]:
    """Share of holes filled as in the solution, plus 1 for a solved puzzle; in [0, 2].

    A completion that is not a grid scores 0. A valid grid that keeps the clues is solved even where it differs from the
    recorded solution.
    """
    scores = []
    for text, clues, answer in zip(completions, puzzle, solution, strict=True):
        cells = sudoku_cells(text)
        if cells is None:
            scores.append(0.0)
            continue
        holes = [i for i, p in enumerate(clues) if p in HOLES]
        right = sum(cells[i] == int(answer[i]) for i in holes) / max(1, len(holes))
        scores.append(right + sudoku_solved(text, clues))
    return scores


def load_object(name: str, what: str) -> Any:
    """The callable named `module:name`.

    Raises:
        ValueError: the name has another form, or the module or the callable does not exist; `what` says whose name.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"{what} must be named 'module:name', got {name!r}")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{what} {name!r} cannot be imported: {error}") from error
    if not callable(found):
        raise ValueError(f"{what} {name!r} cannot be called")
    return found


def score(reward: Reward, completions: list[str], columns: dict[str, list[Any]]) -> list[float]:
    """Call a reward and check what it returns.

    Raises:
        ValueError: it returned another number of values, something that is no number, or a value that is not finite.
    """
    name = getattr(reward, "__name__", repr(reward))
    values = reward(completions, **columns)
    if not isinstance(values, Sequence):
        raise ValueError(f"reward {name} must return a list of numbers, got {type(values).__name__}")
    if len(values) != len(completions):
        raise ValueError(f"reward {name} returned {len(values)} values for {len(completions)} completions")
    for index, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(
                f"reward {name} must return finite numbers, got {value!r} for completion {completions[index][:80]!r}"
            )
    return [float(value) for value in values]
