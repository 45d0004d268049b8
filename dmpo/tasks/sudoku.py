"""4×4 Sudoku. The puzzles are made here, from 288 grids. A grid belongs to one split, so that the solutions of held-out
puzzles never occur in training.
"""

from __future__ import annotations

import itertools
import math
from functools import cache
from random import Random
from typing import Any, ClassVar

from rich.markup import escape

from ..rewards import HOLES, sudoku, sudoku_cells, sudoku_solved
from ..rewards.sudoku_reward import units
from .options import check_integers
from .splits import Row, check_split
from .templates import choose_template, fill, worked_example

SPLITS = {"train": (0, 200), "validation": (200, 240), "test": (240, 288)}  # ranges of the shuffled list of grids


@cache
def all_grids() -> tuple[str, ...]:
    """The 288 valid 4×4 grids as strings of 16 digits, in one fixed shuffled order."""
    rows = ["".join(p) for p in itertools.permutations("1234")]
    grids = [""]
    for _ in range(4):
        grids = [grid + row for grid in grids for row in rows if _repeats_nothing(grid + row)]
    Random("sudoku4 splits").shuffle(grids)
    return tuple(grids)


def _repeats_nothing(start: str) -> bool:
    units_so_far = ([start[i] for i in unit if i < len(start)] for unit in units(4))
    return all(len(set(digits)) == len(digits) for digits in units_so_far)


class Sudoku:
    """Sudoku of SIZE² cells. The prompt has the cells with `.` for a hole; the completion has the cells of the solved
    grid (see `rewards.sudoku_cells`).

    Args:
        min_holes, max_holes: the number of holes is drawn uniformly between them; None for `DEFAULT_HOLES`.
        template, template_file: a text around the puzzle, or its file, for models that need instructions; `{puzzle}` is
            replaced.
    """

    SIZE: ClassVar[int]
    DEFAULT_HOLES: ClassVar[tuple[int, int]]  # min_holes and max_holes

    def __init__(
        self,
        min_holes: int | None = None,
        max_holes: int | None = None,
        template: str | None = None,
        template_file: str | None = None,
    ) -> None:
        check_integers(1, min_holes=min_holes, max_holes=max_holes)
        min_holes = self.DEFAULT_HOLES[0] if min_holes is None else min_holes
        max_holes = self.DEFAULT_HOLES[1] if max_holes is None else max_holes
        self.template = choose_template(template, template_file, "{puzzle}", ("puzzle",))
        if not 1 <= min_holes <= max_holes <= self.SIZE**2:
            raise ValueError(
                f"min_holes and max_holes must satisfy 1 ≤ min_holes ≤ max_holes ≤ {self.SIZE**2}, "
                f"got {min_holes} and {max_holes}"
            )
        self.min_holes, self.max_holes = min_holes, max_holes

    def draw(self, split: str, index: int) -> tuple[str, str]:
        """Puzzle and solution `index` of a split."""
        raise NotImplementedError

    def row(self, split: str, index: int) -> Row:
        """Puzzle `index` of a split. It depends only on (split, index)."""
        check_split(split, SPLITS)
        check_integers(0, index=index)
        puzzle, solution = self.draw(split, index)
        return {"prompt": fill(self.template, {"puzzle": puzzle}), "puzzle": puzzle, "solution": solution}

    def size(self, split: str) -> None:
        """None, because puzzles are made without end."""
        check_split(split, SPLITS)

    def reward(self, completions: list[str], **columns: list[Any]) -> list[float]:
        """See `dmpo.rewards.sudoku`."""
        return sudoku(completions, **columns)

    def solved(self, completion: str, row: Row) -> bool:
        """Whether the completion is a valid grid with the clues unchanged."""
        return sudoku_solved(completion, row["puzzle"])

    def parse(self, completion: str, row: Row) -> str | None:
        """The digits of the grid, row by row."""
        cells = sudoku_cells(completion, self.SIZE)
        return None if cells is None else "".join(map(str, cells))

    def demonstrate(self, row: Row) -> str:
        """The solved grid, in tags if the prompt asks for tags."""
        if "<answer>" not in self.template:
            return str(row["solution"])
        return worked_example("Every row, column and box holds each digit once.", row["solution"])

    def show(self, completion: str, row: Row) -> str:
        """The grid: clues are plain, right holes green, wrong holes red."""
        cells = sudoku_cells(completion, self.SIZE)
        if cells is None:
            return f"[red]not a grid[/red]: {escape(repr(completion[:32]))}"
        box = math.isqrt(self.SIZE)
        lines = []
        for r in range(self.SIZE):
            line = []
            for i in range(self.SIZE * r, self.SIZE * (r + 1)):
                clue, right = row["puzzle"][i], str(cells[i]) == row["solution"][i]
                colour = "bold green" if right else "bold red"
                line.append(str(cells[i]) if clue not in HOLES and right else f"[{colour}]{cells[i]}[/]")
            lines.append(" │ ".join(" ".join(line[c : c + box]) for c in range(0, self.SIZE, box)))
        rule = "┼".join("─" * (2 * box + (c > 0) - (c + box == self.SIZE)) for c in range(0, self.SIZE, box))
        boxes = ["\n".join(lines[r : r + box]) for r in range(0, self.SIZE, box)]
        return f"\n{rule}\n".join(boxes)


class Sudoku4(Sudoku):
    """The prompt has 16 cells with `.` for a hole; the completion has the 16 cells of the solved grid.

    For arguments see `Sudoku`.
    """

    SIZE, DEFAULT_HOLES = 4, (4, 9)

    def draw(self, split: str, index: int) -> tuple[str, str]:
        """Puzzle and solution `index` of a split."""
        random = Random(f"sudoku4/{split}/{index}")
        grid = all_grids()[random.randrange(*SPLITS[split])]
        holes = set(random.sample(range(16), random.randint(self.min_holes, self.max_holes)))
        return "".join("." if i in holes else c for i, c in enumerate(grid)), grid
