"""If these fail, a test puzzle's solution is seen in training or in a prompt, or a prompt is not the published one."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmpo.tasks import check_task_options, load_task
from dmpo.tasks.splits import SPLITS
from dmpo.tasks.sudoku_files import solves
from dmpo.tasks.sudoku_grids import all_grids
from dmpo.tasks.sudoku_prompts import SHOTS, worked
from tests.tasks.data_files import write

SHOT_GRIDS = {grid for _, grid in SHOTS}
SHARED, DISJOINT = "zero_shot_shared", "three_shot_disjoint"


def public_rows(count: int, seed: int, *, holes: int = 8, grids: int = 288) -> list[dict[str, str]]:
    """Rows with the columns of the public files, of the first `grids` grids."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        grid = all_grids()[number % grids]
        empty = set(draw.sample(range(16), holes))
        rows.append({"Puzzle": "".join("0" if i in empty else c for i, c in enumerate(grid)), "Solution": grid})
    draw.shuffle(rows)
    return rows


def every_row(task: Any, split: str) -> list[dict[str, Any]]:
    return [task.row(split, index) for index in range(task.size(split))]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(60, 500),
    grids=st.integers(30, 288),
    train_solutions=st.integers(10, 250),
    holes=st.integers(4, 12),
    seed=st.integers(0, 9),
)
def test_a_file_is_split_by_solution(
    tmp_path: Path, count: int, grids: int, train_solutions: int, holes: int, seed: int
) -> None:
    rows = public_rows(count, seed, holes=holes, grids=grids)
    rows += [{"Puzzle": puzzle, "Solution": grid} for puzzle, grid in SHOTS]
    source = write(tmp_path / "rows.csv", rows)
    train_solutions = min(train_solutions, len({row["Solution"] for row in rows}) - 15)
    task: Any = load_task("sudoku4", protocol=DISJOINT, train=source, train_solutions=train_solutions)
    of = {split: every_row(task, split) for split in SPLITS}
    solutions = {split: {row["solution"] for row in of[split]} for split in SPLITS}
    assert not solutions["train"] & solutions["test"]
    assert not solutions["validation"] & (solutions["train"] | solutions["test"])
    assert not SHOT_GRIDS & (solutions["validation"] | solutions["test"])
    assert len(solutions["train"] | solutions["validation"]) <= train_solutions
    assert 1 <= task.size("test") <= 256
    assert not {row["puzzle"] for row in of["train"]} & {row["puzzle"] for row in of["test"]}
    for split in ("validation", "test"):
        assert not any(solves(grid, row["puzzle"]) for row in of[split] for grid in SHOT_GRIDS)
    for split in SPLITS:
        for row in of[split]:
            assert {"Puzzle": row["puzzle"], "Solution": row["solution"]} in rows
            assert row["puzzle"] not in {puzzle for puzzle, _ in SHOTS}
            assert row["prompt"].count(row["puzzle"]) == 1
            if split != "train":
                assert row["solution"] not in row["prompt"]


@pytest.mark.parametrize("protocol", [SHARED, DISJOINT])
def test_made_puzzles(protocol: str) -> None:
    task: Any = load_task("sudoku4", protocol=protocol)
    rows = {split: [task.row(split, i) for i in range(400)] for split in SPLITS}
    solutions = {split: {row["solution"] for row in rows[split]} for split in SPLITS}
    puzzles = {split: {row["puzzle"] for row in rows[split]} for split in SPLITS}
    assert not puzzles["train"] & puzzles["test"]
    assert {puzzle.count("0") for split in SPLITS for puzzle in puzzles[split]} == {8}
    assert all(task.size(split) is None for split in SPLITS)
    shared = solutions["train"] & solutions["test"]
    if protocol == SHARED:
        assert len(shared) > 100, "as in the public files, most solutions are in both"
    else:
        assert not shared
        assert not solutions["validation"] & (solutions["train"] | solutions["test"])
        assert not SHOT_GRIDS & (solutions["validation"] | solutions["test"])
        assert all(row["solution"] not in row["prompt"] for row in rows["test"])
    row = rows["test"][0]
    assert task.solved(task.demonstrate(row), row)
    assert load_task("sudoku4", protocol=protocol).row("test", 0) == row
    assert {p.count("0") for p in (load_task("sudoku4", protocol=protocol, min_holes=2, max_holes=3).row("test", i)[
        "puzzle"] for i in range(20))} == {2, 3}  # fmt: skip


def test_shared_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The test file is taken whole, in its order; the training file loses the puzzles that are in it, no solutions."""
    train, test = public_rows(400, 0), public_rows(50, 1)
    files = {"train": write(tmp_path / "train.csv", [*train, *test[:3]]), "test": write(tmp_path / "test.csv", test)}
    task: Any = load_task("sudoku4", protocol=SHARED, **files)
    assert [row["puzzle"] for row in every_row(task, "test")] == [row["Puzzle"] for row in test]
    assert "3 rows" in caplog.text
    puzzles = {split: [row["puzzle"] for row in every_row(task, split)] for split in SPLITS}
    assert not set(puzzles["train"]) & {*puzzles["test"], *puzzles["validation"]}
    assert sorted(puzzles["train"] + puzzles["validation"]) == sorted(row["Puzzle"] for row in train)
    assert {row["solution"] for row in every_row(task, "train")} & {row["Solution"] for row in test}
    assert "\n" + task.row("test", 0)["puzzle"] not in task.row("test", 0)["prompt"]
    held = load_task("sudoku4", protocol=SHARED, train=files["train"])
    assert {row["puzzle"] for row in every_row(held, "test")}.isdisjoint(r["puzzle"] for r in every_row(held, "train"))


def test_an_evaluation_needs_no_training_file(tmp_path: Path) -> None:
    test = write(tmp_path / "test.csv", public_rows(20, 0))
    task: Any = load_task("sudoku4", protocol=SHARED, test=test)
    assert task.size("test") == 20
    with pytest.raises(ValueError, match="no rows of train: give the option train"):
        task.row("train", 0)
    with pytest.raises(ValueError, match="needs rows to train on"):
        check_task_options("sudoku4", {"protocol": SHARED, "test": test}, has_reward=False)


def test_disjoint_files(tmp_path: Path) -> None:
    grids = [grid for grid in all_grids() if grid not in SHOT_GRIDS]
    rows = [{"Puzzle": "0" * 8 + grid[8:], "Solution": grid} for grid in grids]
    example = dict(zip(("Puzzle", "Solution"), SHOTS[0], strict=True))
    files = {
        "train": write(tmp_path / "train.csv", [*rows[:100], example]),
        "test": write(tmp_path / "test.csv", rows[100:130]),
    }
    task: Any = load_task("sudoku4", protocol=DISJOINT, **files)
    assert [row["solution"] for row in every_row(task, "test")] == grids[100:130]
    assert {row["solution"] for row in every_row(task, "train")} < set(grids[:100])
    assert task.size("train") == 90
    assert 0 < task.size("validation") <= 10, "without puzzles that an example of the prompt solves"
    write(tmp_path / "train.csv", rows[:100])
    write(tmp_path / "test.csv", rows[95:130])
    with pytest.raises(ValueError, match=r"same solution, counted from 0: 0 \(and 95\), 1 \(and 96\).*leave test out"):
        load_task("sudoku4", protocol=DISJOINT, **files)
    write(tmp_path / "test.csv", [rows[120], {"Puzzle": SHOTS[0][1][:15] + "0", "Solution": SHOTS[0][1]}])
    with pytest.raises(ValueError, match="show the solutions of rows 1,"):
        load_task("sudoku4", protocol=DISJOINT, **files)


def test_the_solutions_of_a_whole_file_are_split_as_published(tmp_path: Path) -> None:
    """SPG's script: random.seed(42), then random.shuffle of the solutions that no example has, in the file's order."""
    rows = public_rows(900, 3)
    source = write(tmp_path / "rows.csv", rows)
    task: Any = load_task("sudoku4", protocol=DISJOINT, train=source)
    others = [grid for grid in dict.fromkeys(row["Solution"] for row in rows) if grid not in SHOT_GRIDS]
    state = random.getstate()
    random.seed(42)
    random.shuffle(others)
    random.setstate(state)
    test = every_row(task, "test")
    assert {row["solution"] for row in test} <= set(others[197:])
    assert {row["solution"] for split in ("train", "validation") for row in every_row(task, split)} <= SHOT_GRIDS | set(
        others[:197]
    )
    assert len({row["solution"] for row in test}) == 288 - 200
    counts = [sum(row["solution"] == grid for row in test) for grid in others[197:]]
    assert max(counts) - min(counts) <= 2, "spread evenly"


def test_the_prompts() -> None:
    """The zero-shot prompt is d1's, sign for sign; the examples of the other are right, and each step is the only one.

    A changed sign makes published numbers another prompt's.
    """
    task: Any = load_task("sudoku4", protocol=SHARED)
    assert hashlib.sha256(task.template.encode()).hexdigest()[:16] == "c6d93305f07a0bb8"
    other: Any = load_task("sudoku4", protocol=DISJOINT)
    three = other.template
    assert three.startswith(task.template.partition("Solve the following")[0])
    assert three.endswith("\n\nQuestion: Solve the following Sudoku puzzle: {puzzle}\nAnswer:\n")
    for puzzle, grid in SHOTS:
        assert solves(grid, puzzle)
        assert f"Question:\nSolve the following Sudoku puzzle: {puzzle}\nAnswer:\n{worked(puzzle, grid)}\n" in three
        for line in worked(puzzle, grid).splitlines():
            if " = " in line:
                assert grid[4 * int(line[1]) - 4 + int(line[3]) - 1] == line[-1]
    with pytest.raises(ValueError, match="no cell with only one digit"):
        worked("0" * 16, all_grids()[0])
    own: Any = load_task("sudoku4", protocol=DISJOINT, template="P {puzzle}")
    assert own.row("test", 0)["prompt"] == f"P {own.row('test', 0)['puzzle']}"


GOOD = {"Puzzle": "0" * 8 + "21434321", "Solution": "1234341221434321"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"Puzzle": "4" + GOOD["Puzzle"][1:]}, "row 2: Solution has 1 in cell 0, where Puzzle has 4"),
        ({"Puzzle": GOOD["Puzzle"][3:]}, "row 2: Puzzle must be 16 digits.*a spreadsheet drops leading zeros"),
        ({"Puzzle": "." * 8 + "21434321"}, "row 2: Puzzle must be 16 digits from 0 to 4"),
        ({"Puzzle": "5" * 16}, "row 2: Puzzle must be 16 digits from 0 to 4"),
        ({"Puzzle": GOOD["Solution"]}, "row 2: Puzzle must have a hole"),
        ({"Solution": "1" * 16}, "row 2: Solution must be a valid grid"),
        ({"Solution": ""}, "row 2: Solution must be a valid grid"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, str], message: str) -> None:
    source = write(tmp_path / "rows.csv", [GOOD, GOOD, GOOD | row, GOOD])
    with pytest.raises(ValueError, match=f"1 of 4 rows are no puzzles with their solution, counted from 0: {message}"):
        load_task("sudoku4", protocol=SHARED, test=source)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "zero_shot"}, "protocol must be one of zero_shot_shared, three_shot_disjoint, got 'zero_shot'"),
        ({"train": "x.csv"}, "train needs a protocol: give protocol, one of"),
        ({"train_solutions": 100}, "train_solutions needs a protocol"),
        ({"protocol": SHARED, "train_solutions": 100}, "train_solutions goes with protocol three_shot_disjoint"),
        ({"protocol": DISJOINT, "train_solutions": 9}, "train_solutions must be an integer ≥ 10, got 9"),
        (
            {"protocol": DISJOINT, "train_solutions": 300},
            "288 different solutions, and train_solutions 300 leaves none",
        ),
        ({"protocol": DISJOINT, "test": "x.csv", "train_solutions": 99}, "give test or train_solutions, not both"),
        ({"protocol": SHARED, "train": 3}, "train must be a text"),
        ({"protocol": SHARED, "train": "none.csv"}, "does not exist"),
        ({"protocol": SHARED, "test": "none.csv", "max_holes": 3}, "leave max_holes out"),
        ({"protocol": SHARED, "template": "x"}, "template must contain {puzzle}"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_task("sudoku4", **options)


def test_files_that_cannot_be_split(tmp_path: Path) -> None:
    few = write(tmp_path / "few.csv", public_rows(60, 0, grids=12))
    with pytest.raises(ValueError, match=r"few.csv has 12 different solutions, and train_solutions 200 leaves none"):
        load_task("sudoku4", protocol=DISJOINT, train=few)
    columns = write(tmp_path / "columns.csv", [{"puzzle": GOOD["Puzzle"], "solution": GOOD["Solution"]}])
    with pytest.raises(ValueError, match=r"needs a column Puzzle .*got columns puzzle, solution"):
        load_task("sudoku4", protocol=SHARED, test=columns)
    one = write(tmp_path / "one.csv", [GOOD])
    with pytest.raises(ValueError, match="leaves no row for training"):
        load_task("sudoku4", protocol=SHARED, train=one)
    with pytest.raises(ValueError, match="leave no puzzle for test"):
        load_task("sudoku4", protocol=DISJOINT, min_holes=16, max_holes=16).row("test", 0)
    with pytest.raises(ValueError, match="does not exist"):
        check_task_options("sudoku4", {"protocol": SHARED, "train": str(tmp_path / "no.csv")}, has_reward=False)
