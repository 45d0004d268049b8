"""If these fail, Sudoku counts what solves no puzzle, or misses what does."""

from __future__ import annotations

from typing import Any

import pytest

from dmpo.rewards import is_sudoku, sudoku, sudoku_cells, sudoku_holes, sudoku_solved
from dmpo.tasks.sudoku_grids import all_grids

GRID = "1234341221434321"
OTHER = "4321214334121234"  # a valid grid with other clues
PUZZLE = "1.34.41221434.21"  # three holes
NINE = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"

_ROWS = [" | ".join(GRID[r : r + 4]) for r in range(0, 16, 4)]
_RULE = "+---+---+---+---+"
DRAWN = [
    "\n".join([_RULE, *(f"| {row} |\n{_RULE}" for row in _ROWS)]),
    "\n".join([f"| {_ROWS[0]} |", "|:-:|:-:|--:|:--|", *(f"| {row} |" for row in _ROWS[1:])]),
    "```\n1234\n3412\n2143\n4321\n```",
    f"`{GRID}`",
    f"**{GRID}**",
    f"**{GRID}.**",
    "(1 2 3 4; 3 4 1 2; 2 1 4 3; 4 3 2 1).",
    "╔════╗\n║1234║\n║3412║\n║2143║\n║4321║\n╚════╝",
]


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (GRID, 2.0),
        ("1234 3412\n2143 4321", 2.0),
        ("1 2 | 3 4\n3 4 | 1 2\n----+----\n2 1 | 4 3\n4 3 | 2 1", 2.0),
        ("[[1,2,3,4],[3,4,1,2],[2,1,4,3],[4,3,2,1]]", 2.0),
        *((drawn, 2.0) for drawn in DRAWN),
        *((drawn.replace("2", "5"), 0.0) for drawn in DRAWN),
        *((f"{drawn}1", 0.0) for drawn in DRAWN),
        (f"{GRID[:-1]}.", 0.0),  # a hole is no period
        (f".{GRID}", 0.0),
        (f"{GRID}..", 0.0),
        (GRID + " " * 240, 2.0),
        (GRID + " " * 241, 0.0),
        ("1134341221434321", 2 / 3),
        ("1434141221434121", 0.0),
        ("2143432112343412", 0.0),  # a valid grid that changes the clues
        ("", 0.0),
        (GRID[:-1], 0.0),
        (GRID + "1", 0.0),
        (GRID.replace("4", "5"), 0.0),
        (GRID.replace("4", "."), 0.0),
        ("x" * 100_000, 0.0),
        (f"<reasoning>{OTHER} or so\n</reasoning>\n<answer>\n{GRID}\n</answer>", 2.0),
        (f"<answer>{GRID}</answer> no: <answer>{OTHER}", 0.0),
        (f"so \\boxed{{{GRID}}}", 2.0),
        (f"<answer>\\boxed{{{GRID}}}</answer>", 2.0),
        (f"<answer>The grid is {GRID}</answer>", 0.0),
        ("<answer>" * 20_000, 0.0),
        ("١٢٣٤٣٤١٢٢١٤٣٤٣٢١", 0.0),  # digits, but not these
        ("１２３４３４１２２１４３４３２１", 0.0),
    ],
)
def test_sudoku_reward(completion: str, expected: float) -> None:
    assert sudoku([completion], puzzle=[PUZZLE], solution=[GRID]) == [pytest.approx(expected)]


def test_another_solution_counts_as_solved() -> None:
    """Two of the 288 grids share these clues; either solves the puzzle."""
    a = all_grids()[0]
    merged = (("".join(x if x == y else "." for x, y in zip(a, b, strict=True)), b) for b in all_grids() if a != b)
    puzzle, b = min(merged, key=lambda pair: pair[0].count("."))
    assert puzzle.count(".") <= 8
    assert sudoku_solved(a, puzzle)
    assert sudoku_solved(b, puzzle)
    assert sudoku([b], puzzle=[puzzle], solution=[a]) == [1.0]  # solved, no hole as recorded


def test_nine_by_nine() -> None:
    puzzle = "." * 9 + NINE[9:]
    rows = "\n".join(" ".join(NINE[9 * r : 9 * r + 9]) for r in range(9))
    wrong = NINE[1] + NINE[0] + NINE[2:]  # two holes wrong
    texts = [NINE, f"<answer>\n{rows}\n</answer>", wrong, GRID, NINE[:-1], NINE + "1"]
    scores = sudoku(texts, puzzle=[puzzle] * 6, solution=[NINE] * 6)
    assert scores == pytest.approx([2.0, 2.0, 7 / 9, 0.0, 0.0, 0.0])
    assert is_sudoku([int(c) for c in NINE], 9)
    assert not is_sudoku([int(c) for c in wrong], 9)
    assert sudoku_cells(NINE, 9) == [int(c) for c in NINE]
    assert sudoku_cells(NINE) is None


@pytest.mark.parametrize("puzzle", [int(PUZZLE.replace(".", "0")), "1.34 .412\n2143\t4.21", PUZZLE.replace(".", "0")])
def test_other_ways_to_write_a_puzzle(puzzle: Any) -> None:
    solution: Any = int(GRID)
    assert sudoku([GRID, ""], puzzle=[puzzle] * 2, solution=[solution] * 2) == [2.0, 0.0]
    assert sudoku_solved(GRID, puzzle)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("puzzle", PUZZLE.replace(".", hole)) for hole in "_* x5"),
        *(("puzzle", value) for value in ("", None, 1234, PUZZLE[1:], list(PUZZLE), [PUZZLE], "." * 25)),
        *(("solution", value) for value in ("", None, PUZZLE, GRID[1:], list(GRID), NINE)),
    ],
)
def test_columns_that_are_no_puzzle(column: str, value: Any) -> None:
    for text in (GRID, ""):
        with pytest.raises(ValueError, match=f"column {column} "):
            sudoku([text], **({"puzzle": [PUZZLE], "solution": [GRID]} | {column: [value]}))
    if column == "puzzle":
        with pytest.raises(ValueError, match=r"column puzzle must hold texts of 16 or 81 digits, \. or 0 for a"):
            sudoku_solved(GRID, value)


def test_the_grids() -> None:
    grids = all_grids()
    assert len(grids) == len(set(grids)) == 288  # the known number of 4×4 Sudoku grids
    assert all(is_sudoku([int(c) for c in grid]) for grid in grids)
    assert not is_sudoku([1, 2, 3, 4] * 4)
    assert sudoku_cells(GRID) == [int(c) for c in GRID]


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        (GRID, 3),
        (f"<answer>\n{GRID}\n</answer>", 3),
        (f"<answer>{OTHER}</answer> or <answer>{GRID}</answer>", 3),
        (f"<answer>{GRID}999</answer>", 3),  # cut to 16 cells
        (f"<answer>{GRID[:8]}</answer>", 2),  # two of the holes are in the first half
        ("<answer>" + " ".join(GRID[:13]) + "</answer>", 2),
        (f"<answer>{OTHER}", 0),
        (f"the grid is {GRID}.", 3),
        (f"{GRID}1", 0),
        ("", 0),
        ("<answer></answer>", 0),
    ],
)
def test_the_share_of_holes(completion: str, right: int) -> None:
    """The published measure: a text that is no grid has a share, too."""
    for hole in ".0":
        puzzle = PUZZLE.replace(".", hole)
        assert sudoku_holes([completion], puzzle=[puzzle], solution=[GRID]) == [right / 3]
    with pytest.raises(ValueError, match="column puzzle "):
        sudoku_holes([completion], puzzle=["12"], solution=[GRID])
    with pytest.raises(ValueError, match="as many as its puzzle"):
        sudoku_holes([completion], puzzle=[PUZZLE], solution=[NINE])
