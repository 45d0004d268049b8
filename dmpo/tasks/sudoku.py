"""4×4 Sudoku. The puzzles are made here, from 288 grids. A grid belongs to one split, so that the solutions of held-out
puzzles never occur in training. With a protocol, prompts and splits are those of a public one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random
from typing import Any, ClassVar

from rich.markup import escape

from ..rewards import HOLES, sudoku, sudoku_cells, sudoku_solved
from .options import check_integers
from .sources import check_file
from .splits import Row, check_split
from .sudoku_grids import all_grids
from .sudoku_protocols import HOLES as PROTOCOL_HOLES
from .sudoku_protocols import TEMPLATES, FilePuzzles, MadePuzzles, ProtocolOptions
from .templates import choose_template, fill, worked_example

SPLITS = {"train": (0, 200), "validation": (200, 240), "test": (240, 288)}  # ranges of the shuffled list of grids


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

    def size(self, split: str) -> int | None:
        """None, because puzzles are made without end."""
        check_split(split, SPLITS)
        return None

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

    With `protocol`, the prompt and the splits are those of published results, and `0` is a hole. See
    `sudoku_protocols`.

    Args:
        min_holes, max_holes, template, template_file: as of `Sudoku`. With `protocol`, made puzzles have 8 holes unless
            told otherwise, and a template replaces the prompt of the protocol.
        protocol: `zero_shot_shared` or `three_shot_disjoint`.
        train, test: files of puzzles with columns `Puzzle` and `Solution`, for a protocol. Without `test`, test rows
            are held out of `train`; without `train`, there are only test rows; without both, puzzles are made.
        train_solutions: how many solutions of `train` are for training with `three_shot_disjoint`; None for 200.
    """

    SIZE, DEFAULT_HOLES = 4, (4, 9)

    def __init__(
        self,
        min_holes: int | None = None,
        max_holes: int | None = None,
        template: str | None = None,
        template_file: str | None = None,
        *,
        protocol: str | None = None,
        train: str | None = None,
        test: str | None = None,
        train_solutions: int | None = None,
    ) -> None:
        given = {"train": train, "test": test, "train_solutions": train_solutions}
        options = _protocol_options(protocol, **given)
        self.puzzles: MadePuzzles | FilePuzzles | None = None
        if options is None:
            super().__init__(min_holes, max_holes, template, template_file)
            return
        if template is None and template_file is None:
            template = TEMPLATES[options.protocol]()
        for name, holes in (("min_holes", min_holes), ("max_holes", max_holes)):
            if holes is not None and (train is not None or test is not None):
                raise ValueError(f"{name} is for made puzzles, but the puzzles are read from files; leave {name} out")
        least = PROTOCOL_HOLES[0] if min_holes is None else min_holes
        most = max(least, PROTOCOL_HOLES[1]) if max_holes is None else max_holes
        super().__init__(least, most, template, template_file)
        if train is None and test is None:
            self.puzzles = MadePuzzles(options, (self.min_holes, self.max_holes))
        else:
            self.puzzles = FilePuzzles(options)

    @staticmethod
    def check_options(options: Mapping[str, Any], *, has_reward: bool) -> None:
        """Raise ValueError for options with which no run can train, before any data is read."""
        names = ("train", "test", "train_solutions")
        given = _protocol_options(options.get("protocol"), **{name: options.get(name) for name in names})
        if given is None:
            return
        if given.train is None and given.test is not None:
            raise ValueError(
                f"task_options of sudoku4: got test {given.test} without train; a run needs rows to train on"
            )
        for source in (given.train, given.test):
            if source is not None:
                check_file(source)

    def draw(self, split: str, index: int) -> tuple[str, str]:
        """Puzzle and solution `index` of a split."""
        if self.puzzles is not None:
            return self.puzzles.draw(split, index)
        random = Random(f"sudoku4/{split}/{index}")
        grid = all_grids()[random.randrange(*SPLITS[split])]
        holes = set(random.sample(range(16), random.randint(self.min_holes, self.max_holes)))
        return "".join("." if i in holes else c for i, c in enumerate(grid)), grid

    def size(self, split: str) -> int | None:
        """The number of rows of a split; None if puzzles are made."""
        check_split(split, SPLITS)
        return None if self.puzzles is None else self.puzzles.size(split)


def _protocol_options(protocol: Any, *, train: Any, test: Any, train_solutions: Any) -> ProtocolOptions | None:
    """The options of a protocol; None without a protocol.

    Raises:
        ValueError: they do not go together, or there are some without a protocol.
    """
    if protocol is not None:
        return ProtocolOptions(protocol, train, test, train_solutions)
    for name, value in (("train", train), ("test", test), ("train_solutions", train_solutions)):
        if value is not None:
            raise ValueError(
                f"{name} needs a protocol: give protocol, one of {', '.join(TEMPLATES)}, or leave {name} out"
            )
    return None
