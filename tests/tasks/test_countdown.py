"""If these fail, Countdown's held-out puzzles were trained on, or cannot be solved."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dmpo import DMPOConfig
from dmpo.config.files import load_config
from dmpo.rewards.arithmetic import parse_expression
from dmpo.tasks import load_task, size_of
from dmpo.tasks.countdown_expressions import SIGNS, expressions, find_expression
from dmpo.tasks.splits import SPLITS
from tests.tasks.data_files import countdown_rows, write


def multisets(task: Any, split: str, count: int) -> set[tuple[int, ...]]:
    return {tuple(sorted(task.row(split, i)["numbers"])) for i in range(count)}


def assert_disjoint(seen: dict[str, set[tuple[int, ...]]]) -> None:
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]


def test_puzzles_made_here() -> None:
    # Of three numbers up to 12 there are few multisets, so that splits by anything else would share some.
    task: Any = load_task("countdown", counts=[3], largest=12)
    seen = {split: multisets(task, split, 300) for split in SPLITS}
    assert_disjoint(seen)
    assert len(seen["train"]) > 50
    assert len(seen["test"]) > 5
    for split in SPLITS:
        assert task.size(split) is None
        for index in range(20):
            row = task.row(split, index)
            assert len(row["numbers"]) == 3
            assert all(1 <= n <= 12 for n in [*row["numbers"], row["target"]])
            made = task.demonstrate(row)
            assert task.solved(made, row)
            assert task.reward([made], numbers=[row["numbers"]], target=[row["target"]]) == [1.0]


def test_a_split_without_puzzles() -> None:
    """Of the 55 pairs of numbers up to 10 none is for validation."""
    task: Any = load_task("countdown", counts=[2], largest=10)
    assert len(task.row("train", 0)["numbers"]) == 2
    with pytest.raises(ValueError, match=r"counts \[2\], largest 10, .* leave no puzzle for validation"):
        task.row("validation", 0)


def test_rows_are_what_they_were() -> None:
    """Published runs saw these puzzles."""
    task = load_task("countdown")
    rows = [sorted(task.row(split, i).items()) for split in SPLITS for i in range(100)]
    assert hashlib.sha256(repr(rows).encode()).hexdigest()[:16] == "6e72f0ab94e30219"


SMALL = load_config(DMPOConfig, "countdown-tiny").task_options


def test_small_puzzles() -> None:
    task: Any = load_task("countdown", **SMALL)
    seen = {split: multisets(task, split, 600) for split in SPLITS}
    assert_disjoint(seen)
    assert 140 <= sum(map(len, seen.values())) <= 165, "there are 165 multisets of three numbers up to 9"
    assert min(map(len, seen.values())) >= 15
    for split in SPLITS:
        for row in (task.row(split, i) for i in range(100)):
            assert 1 <= row["target"] <= 99
            assert any(value == row["target"] for value, _ in expressions(row["numbers"], "+-*"))
            assert row["prompt"] == f"{', '.join(map(str, row['numbers']))}={row['target']}"
    assert any(task.row("train", i)["target"] > 9 for i in range(20))
    made = task.demonstrate(row)
    assert "<" not in made, "the prompt asks for no tags"
    assert task.solved(made, row)


@pytest.mark.parametrize(("numbers", "signs", "count"), [([3, 5, 2], "+-*", 108), ([1, 2], SIGNS, 8), ([7], SIGNS, 1)])
def test_all_expressions(numbers: list[int], signs: str, count: int) -> None:
    found = list(expressions(numbers, signs))
    assert len(found) == count
    for value, text in found:
        read = parse_expression(text)
        assert read is not None
        assert read.value == value
        assert Counter(map(int, read.numbers)) == Counter(numbers)
        assert set(text) & set(SIGNS) <= set(signs)


def test_parentheses_that_change_nothing_are_not_written() -> None:
    texts = [text for _, text in expressions([97, 59, 31, 13])]
    for text in {text for text in texts if "(" in text}:
        value = parse_expression(text)
        opened = text.index("(")
        depth = 0
        for closed in range(opened, len(text)):
            depth += {"(": 1, ")": -1}.get(text[closed], 0)
            if depth == 0:
                break
        bare = text[:opened] + text[opened + 1 : closed] + text[closed + 1 :]
        assert parse_expression(bare) != value, text


def test_no_expression_divides_by_0() -> None:
    assert len(list(expressions([0, 2, 2]))) > 50
    assert all("/ 0" not in text and "/ (2 - 2)" not in text for _, text in expressions([0, 2, 2]))


def test_both_counts_and_the_prompt() -> None:
    task: Any = load_task("countdown")
    rows = [task.row("train", i) for i in range(30)]
    assert {len(row["numbers"]) for row in rows} == {3, 4}
    assert rows == [task.row("train", i) for i in range(30)]
    first = rows[0]
    assert ", ".join(map(str, first["numbers"])) in first["prompt"]
    assert f"equals {first['target']} " in first["prompt"]
    assert "red]1+1" in task.show("1+1", first)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_rows_of_a_file(tmp_path: Path, suffix: str) -> None:
    rows = countdown_rows(300)
    task: Any = load_task("countdown", train=write(tmp_path / f"rows{suffix}", rows))
    sizes = [task.size(split) for split in SPLITS]
    assert sum(sizes) == 300
    assert sizes[0] > 240
    assert min(sizes) >= 4
    assert_disjoint({split: multisets(task, split, task.size(split)) for split in SPLITS})
    three: Any = load_task("countdown", train=str(tmp_path / f"rows{suffix}"), counts=[3])
    assert sum(three.size(split) for split in SPLITS) == 150
    third: Any = load_task("countdown", train=str(tmp_path / f"rows{suffix}"), held_out=3)
    assert min(third.size(split) for split in SPLITS) > 60
    row = three.row("test", 0)
    assert row == three.row("test", three.size("test"))
    assert row["target"] == sum(row["numbers"])
    assert three.solved(three.demonstrate(row), row)


def test_a_test_set_of_its_own(tmp_path: Path) -> None:
    rows = countdown_rows(200)
    other = [{"target": 1, "nums": row["nums"][::-1]} for row in rows[:40]]
    sources = {"train": write(tmp_path / "train.jsonl", rows), "test": write(tmp_path / "test.jsonl", other)}
    task: Any = load_task("countdown", **sources)
    assert task.size("test") == 40
    assert task.size("train") + task.size("validation") == 160
    assert_disjoint({split: multisets(task, split, task.size(split)) for split in SPLITS})


def test_finding_an_expression() -> None:
    task: Any = load_task("countdown")
    for numbers, target in (([3, 5, 2], 13), ([8, 8, 3, 3], 24), ([1, 1, 1, 1], 4), ([7], 7), ([3, 3, 7, 7], 24)):
        row = {"numbers": numbers, "target": target}
        assert task.solved(find_expression(numbers, target) or "", row)
    assert find_expression([1, 1, 1], 9) is None
    with pytest.raises(ValueError, match=r"\[1, 1, 1\] cannot make 9"):
        task.demonstrate({"numbers": [1, 1, 1], "target": 9})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"counts": []}, "counts must be"),
        ({"counts": [1]}, "counts must be"),
        ({"counts": [3.5]}, "counts must be"),
        ({"largest": 1}, "largest must be"),
        ({"largest_target": 0}, "largest_target must be an integer ≥ 1"),
        ({"held_out": 2}, "held_out must be an integer ≥ 3"),
        ({"held_out": None}, "held_out must be an integer ≥ 3"),
        *(({"signs": signs}, "signs must be some of") for signs in ("", "+x", "++", ["+"], None)),
        ({"test": "test.jsonl"}, "got test without train"),
        ({"template": "{numbers}"}, r"must contain \{target\}"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_task("countdown", **options)


def test_bad_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = write(tmp_path / "bad.jsonl", [{"nums": [1, 2, 3], "target": "many"}])
    with pytest.raises(
        ValueError, match=r"row 0: columns nums and target must be integers, got \[1, 2, 3\] and 'many'"
    ):
        load_task("countdown", train=bad)
    half = write(tmp_path / "half.jsonl", [{"nums": [1, 2.5, 3], "target": 6}])
    with pytest.raises(ValueError, match="row 0: columns nums and target must be integers"):
        load_task("countdown", train=half)
    bad = write(tmp_path / "some.jsonl", [*countdown_rows(300), {"nums": None, "target": 6}])
    with caplog.at_level(logging.WARNING, logger="dmpo"):
        task = load_task("countdown", train=bad)
    assert sum(size_of(task, split) or 0 for split in SPLITS) == 300
    assert f"data set {bad}: 1 of 301 rows cannot be read and are left out, counted from 0: row 300: col" in caplog.text
    with pytest.raises(ValueError, match=r"needs a column target \(an integer\), got columns nums"):
        load_task("countdown", train=write(tmp_path / "half.jsonl", [{"nums": [1, 2, 3]}]))
    few = write(tmp_path / "few.jsonl", countdown_rows(1))
    with pytest.raises(ValueError, match=r"leaves no row with 3 or 4 numbers for .* smaller held_out"):
        load_task("countdown", train=few)
