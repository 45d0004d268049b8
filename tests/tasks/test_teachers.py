"""If these fail, the embedded models are not shown what their recipes say."""

from __future__ import annotations

from random import Random
from typing import Any, get_args, get_type_hints

import pytest

from dmpo import DMPOConfig
from dmpo.config.files import load_config
from dmpo.config.pretrain import PretrainConfig
from dmpo.pretrain import character_tokenizer
from dmpo.tasks import load_task
from dmpo.tasks.teachers import TEACHERS, countdown_demonstration, sudoku_demonstration

SMALL = load_config(DMPOConfig, "countdown-tiny").task_options


def test_a_recipe_may_name_each_task_that_has_a_teacher() -> None:
    assert set(get_args(get_type_hints(PretrainConfig)["task"])) == set(TEACHERS)


def test_sloppy_sudoku_has_that_many_errors() -> None:
    task = load_task("sudoku4")
    row = task.row("train", 5)
    for wrong in range(4):
        text = sudoku_demonstration(task, row, Random(0), wrong)
        differing = [i for i, (a, b) in enumerate(zip(text, row["solution"], strict=True)) if a != b]
        assert len(differing) == wrong
        assert all(row["puzzle"][i] == "." for i in differing)


@pytest.fixture(scope="module")
def countdown() -> Any:
    return load_task("countdown", **SMALL)


def test_right_countdown(countdown: Any) -> None:
    for index in range(100):
        row = countdown.row("train", index)
        right = countdown_demonstration(countdown, row, Random(index), 0)
        assert countdown.solved(right, row)
        assert right == countdown_demonstration(countdown, row | {"numbers": row["numbers"][::-1]}, Random(0), 0)


@pytest.mark.parametrize(
    ("numbers", "target", "text"),
    [
        ([3, 5, 2], 16, "(5+3)*2"),
        ([2, 3, 5], 17, "5*3+2"),
        ([2, 5, 1], 7, "5+2*1"),
        ([8, 9, 1], 0, "9-8-1"),
        ([1, 1, 9], 9, "9*1*1"),
    ],
)
def test_the_way_the_teacher_writes(countdown: Any, numbers: list[int], target: int, text: str) -> None:
    assert countdown_demonstration(countdown, {"numbers": numbers, "target": target}, Random(0), 0) == text


@pytest.mark.parametrize("mistakes", [1, 2])
def test_sloppy_countdown(countdown: Any, mistakes: int) -> None:
    kinds = set()
    for index in range(150):
        row = countdown.row("train", index)
        right = countdown_demonstration(countdown, row, Random(index), 0)
        wrong = countdown_demonstration(countdown, row, Random(index), mistakes)
        assert not countdown.solved(wrong, row)
        assert len(wrong) < TEACHERS["countdown"].length
        changed = frozenset(kind for kind, some in KINDS.items() if only(right, some) != only(wrong, some))
        assert len(changed) <= mistakes
        kinds.add(changed)
    assert kinds >= {frozenset({kind}) for kind in KINDS}, "every kind of mistake is made"


KINDS = {"signs": "+-*", "digits": "123456789", "parentheses": "()"}


def only(text: str, some: str) -> str:
    """What a text has of some characters; of parentheses, where they stand among the rest."""
    return "".join(c if c in some else "." * (some == "()") for c in text)


def test_mistakes_that_change_nothing(countdown: Any) -> None:
    class Easy(type(countdown)):  # type: ignore[misc]
        def solved(self, completion: str, row: Any) -> bool:
            return True

    with pytest.raises(ValueError, match=r"1 mistakes leave 5\+3\+2 right"):
        countdown_demonstration(Easy(**SMALL), {"numbers": [3, 5, 2], "target": 10}, Random(0), 1)


@pytest.mark.parametrize(
    ("numbers", "target", "message"),
    [
        ([3, 5], 8, r"needs three numbers from 0 to 9, got \[3, 5\]"),
        ([3, 5, 12], 20, r"needs three numbers from 0 to 9, got \[3, 5, 12\]"),
        ([1, 1, 1], 9, r"\[1, 1, 1\] cannot make 9 with the signs \+-\*"),
    ],
)
def test_rows_that_the_teacher_does_not_know(countdown: Any, numbers: list[int], target: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        countdown_demonstration(countdown, {"numbers": numbers, "target": target}, Random(0), 0)


@pytest.mark.parametrize("name", list(TEACHERS))
def test_the_vocabulary_has_what_is_shown(name: str) -> None:
    task, tokenizer = load_task(name, **(SMALL if name == "countdown" else {})), character_tokenizer(name)
    for index in range(50):
        row = task.row("train", index)
        texts = [row["prompt"], *(TEACHERS[name].demonstrate(task, row, Random(index), m) for m in (0, 1))]
        for text in texts:
            ids = tokenizer(text)["input_ids"]
            assert min(ids) > 1, "nothing is unknown"
            assert tokenizer.decode(ids) == text
        assert all(len(tokenizer(text)["input_ids"]) <= TEACHERS[name].length for text in texts[1:])
