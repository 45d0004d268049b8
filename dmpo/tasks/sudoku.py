"""4×4 Sudoku, made here: 288 grids, split by grid, so that held-out puzzles have solutions never seen in training."""

from __future__ import annotations

import itertools
from functools import cache
from random import Random
from typing import Any

from rich.markup import escape

from ..rewards import HOLES, is_sudoku, sudoku, sudoku_cells, sudoku_solved

SPLITS = {"train": (0, 200), "validation": (200, 240), "test": (240, 288)}  # ranges of the shuffled list of grids


@cache
def all_grids() -> tuple[str, ...]:
    """The 288 valid 4×4 grids as strings of 16 digits, in one fixed shuffled order."""
    rows = ["".join(p) for p in itertools.permutations("1234")]
    halves = [a + b for a, b in itertools.product(rows, repeat=2) if len({*a[:2], *b[:2]}) == 4]  # both boxes right
    candidates = ("".join(choice) for choice in itertools.product(halves, repeat=2))
    grids = [grid for grid in candidates if is_sudoku([int(c) for c in grid])]
    Random("sudoku4 splits").shuffle(grids)
    return tuple(grids)


class Sudoku4:
    """Prompt: 16 cells with `.` for a hole; completion: the 16 cells of the solved grid (see `rewards.sudoku_cells`).

    Args:
        min_holes, max_holes: a puzzle has a uniformly drawn number of holes between them.
        template: text around the puzzle, which replaces `{puzzle}`, for models that want to be told what to do.
    """

    def __init__(self, min_holes: int = 4, max_holes: int = 9, template: str = "{puzzle}") -> None:
        if "{puzzle}" not in template:
            raise ValueError(f"template must contain {{puzzle}}, got {template!r}")
        if not 1 <= min_holes <= max_holes <= 16:
            raise ValueError(f"need 1 ≤ min_holes ≤ max_holes ≤ 16, got {min_holes} and {max_holes}")
        self.min_holes, self.max_holes, self.template = min_holes, max_holes, template

    def row(self, split: str, index: int) -> dict[str, Any]:
        """Puzzle `index` of a split: a function of (split, index) alone."""
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}, choose one of {', '.join(SPLITS)}")
        random = Random(f"sudoku4/{split}/{index}")
        grid = all_grids()[random.randrange(*SPLITS[split])]
        holes = set(random.sample(range(16), random.randint(self.min_holes, self.max_holes)))
        puzzle = "".join("." if i in holes else c for i, c in enumerate(grid))
        return {"prompt": self.template.replace("{puzzle}", puzzle), "puzzle": puzzle, "solution": grid}

    def reward(self, completions: list[str], **columns: list[Any]) -> list[float]:
        """See `dmpo.rewards.sudoku`."""
        return sudoku(completions, **columns)

    def solved(self, completion: str, row: dict[str, Any]) -> bool:
        """A valid grid that keeps the clues."""
        return sudoku_solved(completion, row["puzzle"])

    def show(self, completion: str, row: dict[str, Any]) -> str:
        """The grid with clues plain, right holes green and wrong holes red."""
        cells = sudoku_cells(completion)
        if cells is None:
            return f"[red]not a grid[/red]: {escape(repr(completion[:32]))}"
        lines = []
        for r in range(4):
            line = []
            for i in range(4 * r, 4 * r + 4):
                clue, right = row["puzzle"][i], str(cells[i]) == row["solution"][i]
                colour = "bold green" if right else "bold red"
                line.append(str(cells[i]) if clue not in HOLES and right else f"[{colour}]{cells[i]}[/]")
            lines.append(" ".join(line[:2]) + " │ " + " ".join(line[2:]))
        return "\n".join([*lines[:2], "────┼────", *lines[2:]])
