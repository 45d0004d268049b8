"""If these fail, a data set of one's own is read wrongly, or its held-out prompts leak into training."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmpo.tasks import check_task_options, judges, load_task, scoring_task
from dmpo.tasks.splits import SPLITS
from dmpo.tasks.verdict import check_judges, judge
from tests.tasks.data_files import rows, write

SYSTEM = {"role": "system", "content": "Be short."}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def prompts(task: Any, *splits: str) -> list[str]:
    return [task.row(split, index)["prompt"] for split in splits or SPLITS for index in range(task.size(split))]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_a_file_becomes_three_splits(tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    task: Any = load_task("prompts", train=write(tmp_path / f"train{suffix}", rows(50)), answer="gold")
    assert [task.size(split) for split in SPLITS] == [40, 5, 5]
    assert not caplog.messages, "a row that is held out is not left out"
    assert sorted(prompts(task)) == sorted(row["prompt"] for row in rows(50))
    row = task.row("train", 0)
    number = int(row["gold"]) - 1
    level: Any = number % 3
    assert row == {
        "prompt": f"What is {number} + 1?",
        "gold": row["gold"],
        "answer": row["gold"],
        "level": str(level) if suffix == ".csv" else level,
    }
    assert task.row("train", 40) == row, "indices go round"


def test_held_out_rows_do_not_depend_on_the_order_of_the_file(tmp_path: Path) -> None:
    options = {"answer": "gold", "test_rows": 7, "validation_rows": 3}
    first: Any = load_task("prompts", train=write(tmp_path / "a.jsonl", rows(30)), **options)
    second: Any = load_task("prompts", train=write(tmp_path / "b.jsonl", rows(30)[::-1]), **options)
    assert [first.size(split) for split in SPLITS] == [20, 3, 7]
    for split in SPLITS:
        assert set(prompts(first, split)) == set(prompts(second, split))
    third: Any = load_task("prompts", train=write(tmp_path / "c.jsonl", rows(30)), held_out_share=0.2)
    assert [third.size(split) for split in SPLITS] == [18, 6, 6]


texts = st.text("ab A\n", min_size=1, max_size=4).filter(str.strip)


@given(train=st.lists(texts, min_size=1, max_size=12), test=st.none() | st.lists(texts, min_size=1, max_size=4))
def test_no_prompt_is_in_two_splits(train: list[str], test: list[str] | None) -> None:
    objects: dict[str, Any] = {"train": [{"prompt": text} for text in train]}
    if test is not None:
        objects["test"] = [{"prompt": text} for text in test]
    first, second = ({"".join(text.casefold().split()) for text in of_set} for of_set in (train, test or []))
    if len(first) < (3 if test is None else 2) or len(first - second) < (3 if test is None else 2):
        with pytest.raises(ValueError, match=r"different prompts, and needs|leaves no row for training"):
            load_task("prompts", **objects)
        return
    task: Any = load_task("prompts", **objects)
    keys = {split: {"".join(text.casefold().split()) for text in prompts(task, split)} for split in SPLITS}
    assert all(keys.values())
    assert sum(map(len, keys.values())) == len(set.union(*keys.values()))
    assert set.union(*keys.values()) == first | second, "every prompt is in a split"


def test_training_prompts_of_the_test_file_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    leaks = [{**row, "prompt": "  " + row["prompt"].upper()} for row in rows(3, start=100)]
    sources = {
        "train": write(tmp_path / "train.jsonl", [*rows(20), *leaks]),
        "test": write(tmp_path / "test.jsonl", rows(6, start=100)),
    }
    with caplog.at_level(logging.WARNING, logger="dmpo"):
        task: Any = load_task("prompts", **sources, validation_rows=4)
    assert f"3 training rows of {sources['train']} are also in the test set {sources['test']}" in caplog.text
    assert [task.size(split) for split in SPLITS] == [16, 4, 6]


def test_signs_make_another_prompt() -> None:
    """In puzzles and code every sign counts."""
    puzzles = ["1..4", ".1.4", "14..", "1+4.", "1-4."]
    task: Any = load_task("prompts", train=[{"prompt": text} for text in puzzles])
    assert sorted(prompts(task)) == sorted(puzzles)
    assert [task.size(split) for split in SPLITS] == [3, 1, 1]


def test_messages_are_kept_for_the_chat_template(tmp_path: Path) -> None:
    conversations = [[SYSTEM, user(f"{n}?")] for n in range(6)]
    path = write(tmp_path / "train.parquet", [{"chat": chat, "n": n} for n, chat in enumerate(conversations)])
    task: Any = load_task("prompts", train=path, prompt="chat")
    row = task.row("train", 0)
    assert row["prompt_messages"] == row["chat"] == conversations[row["n"]]
    assert row["prompt"] == f"system: Be short.\n\nuser: {row['n']}?"
    mixed: Any = load_task("prompts", train=[{"prompt": text} for text in ("a", [user("b")], "c")])
    assert {mixed.row(split, 0)["prompt"] for split in SPLITS} == {"a", "b", "c"}
    assert mixed.row("train", 0)["prompt_messages"] == [user(mixed.row("train", 0)["prompt"])], "one form for all rows"


def test_a_field_that_is_none_is_no_field() -> None:
    """Arrow gives every struct every field."""
    task: Any = load_task("prompts", train=[{"prompt": [user(text) | {"name": None}]} for text in "abc"])
    assert task.row("train", 0)["prompt_messages"] == [user(task.row("train", 0)["prompt"])]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "row 0: the prompt is empty"),
        (" \n", "row 0: the prompt is empty"),
        ([], "row 0: the prompt is empty"),
        ([user(" ")], "row 0: the prompt is empty"),
        (None, "row 0: the prompt must be a text, or a list of messages with role and content, got null"),
        (72, "row 0: the prompt must be a text, or a list of messages with role and content, got 72"),
        ({"role": "user"}, "row 0: the prompt must be a text, or a list of messages"),
        (["hello"], "row 0: message 0 of the prompt must have a role and a content, both texts, got 'hello'"),
        ([{"role": "user", "content": None}], "row 0: message 0 of the prompt must have a role and a content"),
        ([user("a"), {"role": "assistant", "content": "b"}], "the last message of the prompt must be the user's, got"),
        ([SYSTEM], "the last message of the prompt must be the user's, got role 'system'"),
    ],
)
def test_prompts_that_cannot_be_read(value: Any, message: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match=r"data set train_dataset: 2 of 3 rows cannot be read") as refusal:
        load_task("prompts", train=[{"prompt": value}, {"prompt": value}, {"prompt": "a"}])
    assert message in str(refusal.value)
    with caplog.at_level(logging.WARNING, logger="dmpo"):
        task: Any = load_task("prompts", train=[{"prompt": value}, *({"prompt": text} for text in "abcd")])
    assert [task.size(split) for split in SPLITS] == [2, 1, 1]
    assert message in caplog.text


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (["question"], {}, "has no column 'prompt'; its columns are 'question'; name yours in task_options: prompt"),
        (["prompt", "n"], {"answer": "gold"}, "has no column 'gold'; its columns are 'prompt', 'n'; name yours"),
        (["prompt", "q"], {"prompt": "q"}, "has a column 'prompt' beside 'q', which task_options name as its prompt"),
        (["prompt", "gold", "answer"], {"answer": "gold"}, "has a column 'answer' beside 'gold'"),
        (["prompt", "completions"], {}, "has a column 'completions', a name under which the rewards get something"),
        (["prompt", "completion"], {}, "has a column 'completion', a name under which the rewards get something"),
        (["prompt", "prompt_messages"], {}, "has a column 'prompt_messages', a name"),
        (["prompt"], {"promt": "q"}, "unknown option 'promt'; did you mean 'prompt'"),
        (["prompt"], {"held_out_share": 0.5}, "held_out_share must be above 0 and below 0.5, got 0.5"),
        (["prompt"], {"held_out_share": "a"}, "held_out_share must be above 0 and below 0.5, got 'a'"),
        (["prompt"], {"validation_rows": 0}, "validation_rows must be an integer ≥ 1, got 0"),
        (["prompt"], {"validation_rows": 8}, "leaves no row for training"),
        (["prompt"], {"test_rows": 9}, "leaves no row for training"),
        (["prompt"], {"revision": "main"}, "revision 'main' needs a hub data set"),
        (["prompt"], {"solved": "no_such:f"}, "solved 'no_such:f' cannot be imported"),
        (["prompt"], {"solved": "m:f", "answer": "prompt"}, "give answer or solved, not both"),
        (["prompt"], {"prompt": 3}, "prompt must be a text, got 3"),
    ],
)
def test_bad_options_and_columns(columns: list[str], options: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", [{name: f"{name} {n}" for name in columns} for n in range(9)])
    with pytest.raises(ValueError) as refusal:
        load_task("prompts", train=path, **options)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_too_few_prompts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data set train_dataset has 2 different prompts, and needs at least 3"):
        load_task("prompts", train=[{"prompt": text} for text in ("a", "b", "B ")])
    with pytest.raises(ValueError, match=r"has 1 different prompts, and needs at least 2, .* held out for validation$"):
        load_task("prompts", train=[{"prompt": "a"}], test=[{"prompt": "b"}])
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="holds no records"):
        load_task("prompts", train=str(tmp_path / "empty.jsonl"))
    (tmp_path / "header.csv").write_text("prompt\n")
    with pytest.raises(ValueError, match=r"header\.csv has no rows"):
        load_task("prompts", train=str(tmp_path / "header.csv"))


def test_the_answer_decides_what_is_solved() -> None:
    task: Any = load_task("prompts", train=rows(9), answer="gold")
    assert judges(task)
    row = {"prompt": "?", "answer": "8,400"}
    for text in ("8400", " 8,400 \n", "<answer>8400.0</answer>", "so \\boxed{8400}", "no <answer>8 400"):
        assert task.solved(text, row) == ("8 400" not in text)
    assert task.parse("I say <answer> Paris </answer>", row) == "Paris"
    assert task.parse("", row) is None
    assert task.reward(["Paris", "paris  France", "Rome"], answer=["PARIS", "Paris France", "Paris"]) == [1, 1, 0]
    assert task.demonstrate(row) == "8,400"
    assert task.solved(task.demonstrate(row), row)
    assert "[bold green]8400[/], right is 8,400" in task.show("8400", row)
    assert not judge(task, "[b]", row).solved


def test_a_function_decides_what_is_solved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_verdict.py").write_text(
        "def right(completions, gold, **_):\n    return [a == b for a, b in zip(completions, gold, strict=True)]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    task: Any = load_task("prompts", train=rows(9), solved="my_verdict:right")
    row = {"prompt": "?", "gold": "7"}
    assert [judge(task, text, row).solved for text in ("7", "8")] == [True, False]
    assert task.reward(["7", "8"], prompt=["?", "?"], gold=["7", "7"]) == [1.0, 0.0]
    assert "right is" not in task.show("8", row)


def test_without_an_answer_nothing_is_called_solved() -> None:
    task: Any = load_task("prompts", train=rows(9))
    assert not judges(task)
    verdict = judge(task, "7", task.row("train", 0))
    assert verdict.solved is None
    assert not verdict.message
    with pytest.raises(
        ValueError, match=r"task prompts cannot say which .* give the task_options of .* answer: COLUMN"
    ):
        check_judges("prompts", task)
    with pytest.raises(ValueError, match=r"task prompts has no reward of its own .* give reward: module:function, or"):
        task.reward  # noqa: B018
    with pytest.raises(ValueError, match="shots must be 0"):
        task.demonstrate(task.row("train", 0))


@pytest.mark.parametrize("bad", [None, "", True, [1], float("nan")])
def test_a_row_without_a_right_answer_is_left_out(bad: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="dmpo"):
        task: Any = load_task("prompts", train=[*rows(8), {"prompt": "?", "gold": bad}], answer="gold")
    assert sum(task.size(split) for split in SPLITS) == 8
    assert "column gold must have a text or a number, got" in caplog.text


def test_test_rows_alone_are_enough_for_an_evaluation(tmp_path: Path) -> None:
    task: Any = load_task("prompts", test=write(tmp_path / "test.csv", rows(4)), answer="gold")
    assert [task.size(split) for split in SPLITS] == [0, 0, 4]
    assert prompts(task, "test") == [row["prompt"] for row in rows(4)]
    with pytest.raises(ValueError, match="task has no rows of train: it was made with test alone; give train"):
        task.row("train", 0)


def test_what_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load_dataset(**wanted: Any) -> Any:
        asked.append((wanted["path"], wanted["name"], wanted["revision"], wanted["split"]))
        return datasets.Dataset.from_list(rows(9, start=50 if wanted["split"] == "dev" else 0))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task: Any = load_task("prompts", train="a/b:c", test="a/b:c", revision="abc", test_split="dev")
    assert asked == [("a/b", "c", "abc", "train"), ("a/b", "c", "abc", "dev")]
    assert [task.size(split) for split in SPLITS] == [8, 1, 9]


@pytest.mark.parametrize(
    ("options", "has_reward", "message"),
    [
        ({}, True, "task_options of prompts need train: the file or the hub id of your prompts"),
        ({"trian": "a"}, True, "unknown option 'trian'; did you mean 'train'"),
        ({"train": "absent.jsonl"}, True, "data file absent.jsonl does not exist"),
        ({"train": "owner/name", "test": "absent.csv"}, True, "data file absent.csv does not exist"),
        ({"train": "owner/name"}, False, "task prompts has no reward of its own"),
    ],
)
def test_early_checks(options: dict[str, Any], has_reward: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_task_options("prompts", options, has_reward=has_reward)


def test_early_checks_pass() -> None:
    check_task_options("prompts", {"train": "owner/name"}, has_reward=True)
    check_task_options("prompts", {"train": "owner/name", "answer": "gold"}, has_reward=False)
    check_task_options("module:Class", {"anything": 1}, has_reward=False)


def test_scoring_needs_no_data() -> None:
    task: Any = scoring_task("prompts")
    assert task.solved("<answer>7</answer>", {"answer": 7})
    with pytest.raises(ValueError, match="it was made to score completions alone"):
        task.row("test", 0)
