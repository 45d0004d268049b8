"""If these fail, a data set that a script gives as an object is read wrongly, or is not known again on resume."""

from __future__ import annotations

from typing import Any

import pytest

from dmpo.tasks import describe_datasets, load_task, task_of_run
from dmpo.tasks.splits import SPLITS
from tests.tasks.data_files import rows


def test_objects_of_a_script() -> None:
    import datasets

    as_list, as_dataset = rows(20), datasets.Dataset.from_list(rows(20))
    tasks = [task_of_run(None, "prompts", {"answer": "gold"}, given) for given in (as_list, as_dataset)]
    assert [tasks[0].row(split, 1) for split in SPLITS] == [tasks[1].row(split, 1) for split in SPLITS]
    task: Any = task_of_run(None, "prompts", {}, as_list, rows(5, start=50))
    assert [task.size(split) for split in SPLITS] == [18, 2, 5]
    ragged: Any = task_of_run(None, "prompts", {}, [{"prompt": "a"}, {"prompt": "b", "n": 1}, {"prompt": "c"}])
    assert {row["prompt"]: row["n"] for row in (ragged.row(split, 0) for split in SPLITS)} == {
        "a": None,
        "b": 1,
        "c": None,
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("train.jsonl", "train_dataset must be a datasets.Dataset, a list of dicts, .* got str"),
        ({"train": [], "test": []}, "got dict with the keys train, test; if these are splits, choose one"),
        (iter([{"prompt": "a"}]), "got list_iterator"),
        ([], "train_dataset has no rows"),
        (["a", "b"], "train_dataset, row 0: must be a dict with columns for keys, got 'a'"),
        ([{1: "a"}], "train_dataset, row 0: must be a dict with columns for keys, got {1: 'a'}"),
    ],
)
def test_objects_that_have_no_rows(given: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        describe_datasets(train_dataset=given, eval_dataset=None)


def test_a_table_of_pandas_is_told_apart() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas comes with datasets alone")
    with pytest.raises(TypeError, match="got DataFrame without an item 0"):
        describe_datasets(train_dataset=pandas.DataFrame(rows(3)))


def test_what_does_not_go_together() -> None:
    with pytest.raises(ValueError, match="go with task 'prompts', got task 'gsm8k'; leave task out"):
        task_of_run(None, "gsm8k", {}, rows(9))
    with pytest.raises(ValueError, match="give train_dataset or task_options train, not both, got 'a"):
        task_of_run(None, "prompts", {"train": "a.jsonl"}, rows(9))
    with pytest.raises(ValueError, match="give task, or train_dataset and eval_dataset, not both; got task Prompts"):
        task_of_run(load_task("prompts", train=rows(9)), "prompts", {}, None, rows(9))


def test_rows_are_recognised_again() -> None:
    import datasets

    first = describe_datasets(train_dataset=rows(9))["train_dataset"]
    assert first.startswith("9 rows, digest ")
    assert describe_datasets(train_dataset=datasets.Dataset.from_list(rows(9)))["train_dataset"] == first
    assert describe_datasets(train_dataset=[*rows(8), {**rows(9)[8], "gold": "?"}])["train_dataset"] != first
    thing = [{"prompt": "a", "picture": object()}]
    assert describe_datasets(train_dataset=thing) == describe_datasets(
        train_dataset=[{**thing[0], "picture": object()}]
    )
