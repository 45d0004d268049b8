"""If these fail, a run is paid for the wrong thing, or a hostile completion stops it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmpo.rewards import is_sudoku, load_object, score, sudoku, sudoku_cells, sudoku_solved
from dmpo.tasks import load_task
from dmpo.tasks.sudoku import SPLITS, all_grids

GRID = "1234341221434321"
OTHER = "4321214334121234"  # a valid grid with other clues
PUZZLE = "1.34.41221434.21"


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (GRID, 2.0),
        ("1234 3412\n2143 4321", 2.0),
        ("1134341221434321", 2 / 3),
        ("1434141221434121", 0.0),
        ("2143432112343412", 0.0),  # a valid grid that changes the clues
        ("", 0.0),
        (GRID[:-1], 0.0),
        (GRID + "1", 0.0),
        (GRID.replace("4", "5"), 0.0),
        ("x" * 100_000, 0.0),
        (f"<reasoning>{OTHER} or so\n</reasoning>\n<answer>\n{GRID}\n</answer>", 2.0),
        (f"<answer>{GRID}</answer> no: <answer>{OTHER}", 0.0),
        ("<answer>" * 20_000, 0.0),
        ("١٢٣٤٣٤١٢٢١٤٣٤٣٢١", 0.0),  # digits, but not these
    ],
)
def test_sudoku_reward(completion: str, expected: float) -> None:
    # the puzzle has three holes
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


@given(st.text(max_size=300))
def test_sudoku_never_raises(text: str) -> None:
    (value,) = sudoku([text], puzzle=[PUZZLE], solution=[GRID])
    assert 0 <= value <= 2


def test_the_grids() -> None:
    grids = all_grids()
    assert len(grids) == len(set(grids)) == 288  # the known number of 4×4 Sudoku grids
    assert all(is_sudoku([int(c) for c in grid]) for grid in grids)
    assert not is_sudoku([1, 2, 3, 4] * 4)
    assert sudoku_cells(GRID) == [int(c) for c in GRID]


def test_splits_share_no_grid() -> None:
    task = load_task("sudoku4")
    seen = {split: {task.row(split, i)["solution"] for i in range(600)} for split in SPLITS}
    assert len(seen["train"]) > 150
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]


def test_rows_are_puzzles_of_their_grid() -> None:
    task = load_task("sudoku4", min_holes=4, max_holes=9)
    holes = set()
    for index in range(200):
        row = task.row("test", index)
        holes.add(row["puzzle"].count("."))
        assert task.solved(row["solution"], row)
        assert row == task.row("test", index)
    assert holes == set(range(4, 10))


@pytest.mark.parametrize(
    "options", [{"min_holes": 0}, {"max_holes": 17}, {"min_holes": 9, "max_holes": 4}, {"hole": 3}, {"template": "x"}]
)
def test_bad_task_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        load_task("sudoku4", **options)
    with pytest.raises(ValueError, match="unknown task"):
        load_task("sudoku5")


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([float("nan")] * 2, "finite numbers, got nan"),
        ([1.0, float("inf")], "finite numbers, got inf"),
        ([1.0], "1 values for 2 completions"),
        (None, "a list of numbers, got NoneType"),
        (["1", "2"], "finite numbers, got '1'"),
        ([None, 1.0], "finite numbers, got None"),
    ],
)
def test_a_wrong_reward_is_named(returned: Any, message: str) -> None:
    def mine(completions: list[str], **columns: list[Any]) -> list[float]:
        return returned  # type: ignore[no-any-return]

    with pytest.raises(ValueError, match=f"reward mine .*{message}"):
        score(mine, ["a", "b"], {})


def test_load_object() -> None:
    assert load_object("dmpo.rewards:sudoku", "reward") is sudoku
    for name in ("sudoku", "dmpo.rewards:", "dmpo.rewards:nothing", "no.such.module:f", "dmpo.rewards:HOLES"):
        with pytest.raises(ValueError, match="reward"):
            load_object(name, "reward")


def test_a_task_of_ones_own() -> None:
    task = load_task("dmpo.tasks.sudoku:Sudoku4", template="Fill in: {puzzle}\n")
    assert task.row("train", 0)["prompt"] == f"Fill in: {task.row('train', 0)['puzzle']}\n"
    with pytest.raises(ValueError, match=r"task 'dmpo\.tasks:Nothing' cannot be imported"):
        load_task("dmpo.tasks:Nothing")
