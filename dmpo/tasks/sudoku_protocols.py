"""The rows of the two public protocols of 4×4 Sudoku, from files or made here.

`zero_shot_shared` (d1, arXiv 2504.12216): rows of a training file and of a test file. The splits share no puzzle, but
they may share solutions. `three_shot_disjoint` (SPG, arXiv 2510.09541): the splits share no solution, and the solutions
of the prompt's examples are for training.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from .options import check_integers, check_texts
from .splits import SPLITS, hashed_split, smallest_keys
from .sudoku_files import Pair, read_puzzles, solves
from .sudoku_grids import all_grids
from .sudoku_prompts import SHOTS, three_shot_template, zero_shot_template

log = logging.getLogger("dmpo")

ZERO_SHOT, THREE_SHOT = "zero_shot_shared", "three_shot_disjoint"
TEMPLATES: Mapping[str, Callable[[], str]] = {ZERO_SHOT: zero_shot_template, THREE_SHOT: three_shot_template}
HOLES = (8, 8)  # of a made puzzle, fewest and most; all 500 rows of d1's test file have 8
TEST_ROWS = 256  # that both protocols evaluate
TRAIN_SOLUTIONS = 200  # of SPG's split, out of 288
_SEED = 42  # of SPG's split
_SHOT_PUZZLES = frozenset(puzzle for puzzle, _ in SHOTS)
_SHOT_GRIDS = tuple(grid for _, grid in SHOTS)
_TRIES = 1000  # the most draws for one made puzzle
_NAMED = 5  # the most rows that a message names


@dataclass(frozen=True)
class ProtocolOptions:
    """What the rows of a protocol are made of. See `Sudoku4`."""

    protocol: str
    train: str | None
    test: str | None
    train_solutions: int | None

    def __post_init__(self) -> None:
        """Raise ValueError for options that do not go together."""
        if self.protocol not in TEMPLATES:
            raise ValueError(f"protocol must be one of {', '.join(TEMPLATES)}, got {self.protocol!r}")
        check_texts(train=self.train, test=self.test)
        check_integers(10, train_solutions=self.train_solutions)
        if self.train_solutions is not None and self.protocol != THREE_SHOT:
            raise ValueError(f"train_solutions goes with protocol {THREE_SHOT}, got protocol {self.protocol}")
        if self.train_solutions is not None and self.test is not None:
            raise ValueError("give test or train_solutions, not both: a test file already says which rows are for test")


class MadePuzzles:
    """Puzzles without end, each a function of (protocol, split, index) and of the number of holes.

    Raises:
        ValueError: train_solutions leaves no grid for the test split.
    """

    def __init__(self, options: ProtocolOptions, holes: tuple[int, int]) -> None:
        self.options, self.holes = options, holes
        self.grids: Mapping[str, list[str]] = {split: list(all_grids()) for split in SPLITS}
        if options.protocol == THREE_SHOT:
            self.grids = split_solutions(list(all_grids()), options.train_solutions or TRAIN_SOLUTIONS, "made puzzles")

    def size(self, split: str) -> None:
        """None, because puzzles are made without end."""

    def draw(self, split: str, index: int) -> Pair:
        """Puzzle and solution `index` of a split.

        Raises:
            ValueError: no puzzle of that many holes is left for the split.
        """
        random = Random(f"sudoku4/{self.options.protocol}/{split}/{index}")
        for _ in range(_TRIES):
            grid = random.choice(self.grids[split])
            holes = set(random.sample(range(16), random.randint(*self.holes)))
            puzzle = "".join("0" if i in holes else digit for i, digit in enumerate(grid))
            if self._is_of(split, puzzle):
                return puzzle, grid
        raise ValueError(
            f"min_holes {self.holes[0]} and max_holes {self.holes[1]} leave no puzzle for {split} in {_TRIES} draws of "
            f"protocol {self.options.protocol}; give fewer holes"
        )

    def _is_of(self, split: str, puzzle: str) -> bool:
        if self.options.protocol == ZERO_SHOT:
            return hashed_split(puzzle) == split
        return puzzle not in _SHOT_PUZZLES if split == "train" else not solved_by_a_shot(puzzle)


class FilePuzzles:
    """Puzzles of files, divided by the protocol; the rows repeat after the last one.

    Raises:
        ValueError: a file cannot be read, has too few solutions to split, or the files share what they must not share.
    """

    def __init__(self, options: ProtocolOptions) -> None:
        self.options = options
        train = None if options.train is None else read_puzzles(options.train, "train")
        test = None if options.test is None else read_puzzles(options.test, "test")
        if train is None:
            self.rows: dict[str, list[Pair]] = {"train": [], "validation": [], "test": test or []}
        elif options.protocol == ZERO_SHOT:
            self.rows = _divide_by_puzzle(train, test, f"data set {options.train}")
        elif test is None:
            self.rows = _divide_by_solution(train, options.train_solutions or TRAIN_SOLUTIONS, f"{options.train}")
        else:
            _check_disjoint(train, test, (f"{options.train}", f"{options.test}"))
            grids = list(dict.fromkeys(grid for _, grid in train))
            validation = _validation_grids(grids, len(grids), f"data set {options.train}")
            self.rows = _by_grid(train, {"validation": validation, "train": set(grids) - validation}) | {"test": test}
        if test is not None and options.protocol == THREE_SHOT:
            _check_no_shots(test, f"{options.test}")

    def size(self, split: str) -> int:
        """The number of rows of a split."""
        return len(self.rows[split])

    def draw(self, split: str, index: int) -> Pair:
        """Puzzle and solution `index` of a split.

        Raises:
            ValueError: the split has no rows.
        """
        rows = self.rows[split]
        if not rows:
            raise ValueError(f"task sudoku4 has no rows of {split}: give the option train, a file of puzzles")
        return rows[index % len(rows)]


def solved_by_a_shot(puzzle: str) -> bool:
    """Whether the solution of one of the prompt's examples also solves a puzzle."""
    return any(solves(grid, puzzle) for grid in _SHOT_GRIDS)


def split_solutions(grids: list[str], train_solutions: int, what: str) -> dict[str, list[str]]:
    """The solutions of each split, from the different solutions of a file in its order.

    As SPG's script divides them: the solutions of the prompt's examples are for training, and a shuffle of the others
    with the seed 42 says which join them; the rest are for test. Of those of training that no example has, a tenth of
    `train_solutions` is for validation, which SPG does not have.

    Raises:
        ValueError: there are too few solutions. `what` names the data in the message.
    """
    shots = [grid for grid in grids if grid in _SHOT_GRIDS]
    others = [grid for grid in grids if grid not in _SHOT_GRIDS]
    Random(_SEED).shuffle(others)
    most = train_solutions - len(shots)
    if len(others) <= most:
        raise ValueError(
            f"{what} has {len(grids)} different solutions, and train_solutions {train_solutions} leaves none for test; "
            "give more puzzles, or fewer train_solutions"
        )
    validation = _validation_grids(others[:most], train_solutions, what)
    train = [grid for grid in (*shots, *others[:most]) if grid not in validation]
    return {"train": train, "validation": sorted(validation), "test": others[most:]}


def _validation_grids(grids: list[str], count: int, what: str) -> set[str]:
    candidates = [grid for grid in grids if grid not in _SHOT_GRIDS]
    if len(candidates) < 2:
        raise ValueError(
            f"{what} has {len(candidates)} different solutions for training besides those of the prompt's examples, "
            "must be at least 2, one of them for validation; give more puzzles"
        )
    return smallest_keys(candidates, min(max(1, count // 10), len(candidates) - 1), "validation")


def _by_grid(rows: list[Pair], grids: Mapping[str, set[str]]) -> dict[str, list[Pair]]:
    """The rows whose solution belongs to each split, without the puzzles of the prompt's examples and, in validation,
    without puzzles that such an example's solution solves."""
    kept = {split: [row for row in rows if row[1] in of and row[0] not in _SHOT_PUZZLES] for split, of in grids.items()}
    kept["validation"] = [row for row in kept["validation"] if not solved_by_a_shot(row[0])]
    return kept


def _divide_by_solution(rows: list[Pair], train_solutions: int, source: str) -> dict[str, list[Pair]]:
    """The splits of one file: test rows are spread evenly over the test solutions, as in SPG's."""
    rows = [row for row in rows if row[0] not in _SHOT_PUZZLES]
    grids = split_solutions(list(dict.fromkeys(grid for _, grid in rows)), train_solutions, f"data set {source}")
    divided = _by_grid(rows, {split: set(grids[split]) for split in ("train", "validation")})
    of_grid: dict[str, list[str]] = {grid: [] for grid in grids["test"]}
    for puzzle, grid in dict.fromkeys(rows):
        if grid in of_grid and not solved_by_a_shot(puzzle):
            of_grid[grid].append(puzzle)
    for grid, puzzles in of_grid.items():
        Random(f"sudoku4/test puzzles/{grid}").shuffle(puzzles)
    rounds = range(max(map(len, of_grid.values())))
    test = [(puzzles[turn], grid) for turn in rounds for grid, puzzles in of_grid.items() if turn < len(puzzles)]
    divided["test"] = test[:TEST_ROWS]
    if not divided["test"]:
        raise ValueError(f"data set {source} leaves no row for test that no example of the prompt solves")
    held_out = {puzzle for puzzle, _ in (*divided["test"], *divided["validation"])}
    divided["train"] = _without(divided["train"], held_out, f"data set {source}")
    test_puzzles = {puzzle for puzzle, _ in divided["test"]}
    divided["validation"] = _without(divided["validation"], test_puzzles, f"data set {source}")
    return divided


def _divide_by_puzzle(train: list[Pair], test: list[Pair] | None, what: str) -> dict[str, list[Pair]]:
    """The splits of a training file and of a test file; without a test file, test rows are held out of the other."""
    held_out = min(TEST_ROWS, max(1, len(train) // 10))
    if test is None:
        keys = smallest_keys((puzzle for puzzle, _ in train), held_out, "test")
        test = list({row[0]: row for row in train if row[0] in keys}.values())
        rest = [row for row in train if row[0] not in keys]
    else:
        rest = _without(train, {puzzle for puzzle, _ in test}, what)
    keys = smallest_keys((puzzle for puzzle, _ in rest), held_out, "validation")
    rows = {
        "train": [row for row in rest if row[0] not in keys],
        "validation": [row for row in rest if row[0] in keys],
        "test": test,
    }
    if not rows["train"]:
        raise ValueError(f"{what} leaves no row for training: it has {len(train)} rows; give more puzzles")
    return rows


def _without(rows: list[Pair], puzzles: set[str], what: str) -> list[Pair]:
    """The rows without those of held-out puzzles; a warning counts what is left out."""
    kept = [row for row in rows if row[0] not in puzzles]
    if len(kept) < len(rows):
        log.warning("%d rows of %s have a held-out puzzle and are left out", len(rows) - len(kept), what)
    return kept


def _check_disjoint(train: list[Pair], test: list[Pair], sources: tuple[str, str]) -> None:
    first = {grid: number for number, (_, grid) in reversed(list(enumerate(train)))}
    shared = [f"{number} (and {first[grid]})" for number, (_, grid) in enumerate(test) if grid in first]
    if shared:
        more = f" and {len(shared) - _NAMED} more" if len(shared) > _NAMED else ""
        raise ValueError(
            f"protocol {THREE_SHOT} needs splits that share no solution, but of test {sources[1]} the rows (and of "
            f"train {sources[0]} their first row) have the same solution, counted from 0: "
            f"{', '.join(shared[:_NAMED])}{more}; leave test out to split train by solution"
        )


def _check_no_shots(test: list[Pair], source: str) -> None:
    shown = [str(number) for number, (_, grid) in enumerate(test) if grid in _SHOT_GRIDS]
    if shown:
        more = f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
        raise ValueError(
            f"data set {source}: the examples of the prompt show the solutions of rows {', '.join(shown[:_NAMED])}"
            f"{more}, counted from 0; leave these rows out"
        )
