"""If these fail, held-out puzzles are not held out, a puzzle has two solutions, or a past run cannot be repeated."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from dmpo.rewards import is_sudoku
from dmpo.tasks import load_task
from dmpo.tasks.splits import SPLITS
from dmpo.tasks.sudoku9 import make_puzzle, solve


@pytest.mark.parametrize(("name", "count"), [("sudoku4", 600), ("sudoku9", 25)])
def test_splits_share_no_grid(name: str, count: int) -> None:
    task: Any = load_task(name)
    seen = {split: {task.row(split, i)["solution"] for i in range(count)} for split in SPLITS}
    assert len(seen["train"]) >= min(count, 150)
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]
    assert all(task.size(split) is None for split in SPLITS)


def test_rows_are_what_they_were() -> None:
    """The published runs of sudoku-tiny saw these puzzles."""
    task: Any = load_task("sudoku4")
    rows = [sorted(task.row(split, i).items()) for split in SPLITS for i in range(200)]
    assert hashlib.sha256(repr(rows).encode()).hexdigest()[:16] == "ed14477183ca81a8"
    assert task.template == "{puzzle}"


def test_rows_are_puzzles_of_their_grid() -> None:
    task: Any = load_task("sudoku4", min_holes=4, max_holes=9)
    holes = set()
    for index in range(200):
        row = task.row("test", index)
        holes.add(row["puzzle"].count("."))
        assert task.solved(row["solution"], row)
        assert task.parse(row["solution"], row) == row["solution"]
        assert row == task.row("test", index)
    assert holes == set(range(4, 10))


def solutions(puzzle: str) -> int:
    """How many there are, counted up to 2 by trying digits cell by cell: slow and plain."""
    cells = [0 if c == "." else int(c) for c in puzzle]
    peers = [
        {j for j in range(81) if j // 9 == i // 9 or j % 9 == i % 9 or (j // 27, j % 9 // 3) == (i // 27, i % 9 // 3)}
        for i in range(81)
    ]

    def count() -> int:
        options = {i: set(range(1, 10)) - {cells[j] for j in peers[i]} for i in range(81) if not cells[i]}
        if not options:
            return 1
        cell = min(options, key=lambda i: len(options[i]))
        found = 0
        for digit in options[cell]:
            cells[cell] = digit
            found += count()
            if found > 1:
                break
        cells[cell] = 0
        return found

    return count()


def test_nine_by_nine_puzzles_have_one_solution() -> None:
    task = load_task("sudoku9", min_holes=30, max_holes=52)
    holes = set()
    for index in range(12):
        row = task.row("train", index)
        assert is_sudoku([int(c) for c in row["solution"]], 9)
        assert all(p in (".", s) for p, s in zip(row["puzzle"], row["solution"], strict=True))
        assert solutions(row["puzzle"]) == 1
        holes.add(row["puzzle"].count("."))
    assert min(holes) >= 30
    assert max(holes) <= 52
    assert len(holes) > 5
    make_puzzle.cache_clear()
    assert task.row("train", 11) == row, "a function of the index"
    assert solutions("." * 81) == 2, "the count tells when there are more"


def test_the_solver() -> None:
    _, solution = make_puzzle("train", 0, 30, 45)
    cells = [int(c) for c in solution]
    cells[:20] = [0] * 20
    assert solve(cells)
    assert is_sudoku(cells, 9)
    assert not solve([1, 1] + [0] * 79)
    dead = [int(c) for c in solution]
    dead[0], dead[1] = 0, dead[0]
    assert not solve(dead)


def test_drawing() -> None:
    task = load_task("sudoku9")
    row = task.row("test", 0)
    drawn = task.show(row["solution"], row)
    assert drawn.count("\n") == 10
    assert drawn.count("──────┼───────┼──────") == 2
    assert "not a grid" in task.show("[red]1", row)


@pytest.mark.parametrize(
    "options", [{"min_holes": 0}, {"max_holes": 17}, {"min_holes": 9, "max_holes": 4}, {"hole": 3}, {"template": "x"}]
)
def test_bad_task_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        load_task("sudoku4", **options)
