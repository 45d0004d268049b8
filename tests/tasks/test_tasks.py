"""If these fail, a task of one's own, or a prompt of one's own, cannot be used."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dmpo.tasks import answer_of, load_task, size_of
from dmpo.tasks.templates import choose_template, fill


class Mine:
    """As little as a task may have."""

    def row(self, split: str, index: int) -> dict[str, Any]:
        return {"prompt": str(index)}

    def reward(self, completions: list[str], **columns: list[Any]) -> list[float]:
        return [0.0] * len(completions)

    def solved(self, completion: str, row: dict[str, Any]) -> bool:
        return True

    def show(self, completion: str, row: dict[str, Any]) -> str:
        return completion


class Wanting(Mine):
    def __init__(self, length: int) -> None:
        self.length = length


class Anything(Mine):
    def __init__(self, **options: Any) -> None:
        self.options = options


def test_a_task_of_ones_own() -> None:
    task = load_task("tests.tasks.test_tasks:Mine")
    assert answer_of(task, "x", {}) == "x"
    assert size_of(task, "test") is None
    task = load_task("dmpo.tasks.sudoku:Sudoku4", template="Fill in: {puzzle}\n")
    assert task.row("train", 0)["prompt"] == f"Fill in: {task.row('train', 0)['puzzle']}\n"
    with pytest.raises(ValueError, match=r"task 'dmpo\.tasks:Nothing' cannot be imported"):
        load_task("dmpo.tasks:Nothing")
    with pytest.raises(ValueError, match="unknown task 'sudoku5', choose one of countdown, gsm8k"):
        load_task("sudoku5")


@pytest.mark.parametrize("name", ["sudoku4", "sudoku9", "countdown"])
def test_tasks_that_need_no_data(name: str, tmp_path: Path) -> None:
    task: Any = load_task(name)
    row = task.row("test", 7)
    assert row == load_task(name).row("test", 7)
    assert row["prompt"] == fill(task.template, {k: str(v).strip("[]") for k, v in row.items() if k != "prompt"})
    assert task.reward([""], **{k: [v] for k, v in row.items()}) == [0.0]
    assert not task.solved("", row)
    assert task.parse("", row) is None
    with pytest.raises(ValueError, match="unknown split 'dev', choose one of train, validation, test"):
        task.row("dev", 0)
    (tmp_path / "prompt.txt").write_text(task.template + " Please!")
    polite: Any = load_task(name, template_file=str(tmp_path / "prompt.txt"))
    assert polite.row("test", 7)["prompt"] == row["prompt"] + " Please!"
    assert polite.template == task.template + " Please!"


def test_templates(tmp_path: Path) -> None:
    assert fill("{a} \\boxed{} {b} {c}", {"a": "{b}", "b": "2"}) == "{b} \\boxed{} 2 {c}", "filled once, the rest kept"
    with pytest.raises(ValueError, match="template or template_file, not both"):
        choose_template("{a}", "file", "{a}", ("a",))
    with pytest.raises(ValueError, match=r"template_file .*absent\.txt cannot be read"):
        choose_template(None, str(tmp_path / "absent.txt"), "{a}", ("a",))
    (tmp_path / "bad.txt").write_text("no field")
    with pytest.raises(ValueError, match=r"must contain \{a\}, got 'no field' \(.*bad\.txt\)"):
        choose_template(None, str(tmp_path / "bad.txt"), "{a}", ("a",))


_TYPES: list[tuple[str, dict[str, Any], str]] = [
    *[("countdown", {"counts": value}, "counts must be a list of integers") for value in (3, None, "34", ["3"], {3})],
    *[("countdown", {"largest": value}, "largest must be an integer ≥ 2") for value in ("x", None, 20.5, True)],
    *[("gsm8k", {"validation_rows": value}, "validation_rows must be an integer ≥ 1") for value in ("5", None, 2.5)],
    *[("math", {"longest": value}, "longest must be an integer ≥ 1") for value in ("5", 0)],
    *[("sudoku4", {name: "4"}, f"{name} must be an integer ≥ 1, got '4'") for name in ("min_holes", "max_holes")],
    *[(name, {"template": 5}, "template must be a text, got 5") for name in ("countdown", "gsm8k", "math", "sudoku9")],
    *[("sudoku4", {"template_file": 5}, "template_file must be a text, got 5")],
    *[("gsm8k", {name: 5}, f"{name} must be a text, got 5") for name in ("train", "test", "revision", "test_revision")],
    *[("countdown", {"train": value}, "train must be a text") for value in (5, ["x.jsonl"])],
]


@pytest.mark.parametrize(("name", "options", "message"), _TYPES)
def test_options_of_another_type_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        load_task(name, **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "gsm8k",
            {"trian": "x.jsonl"},
            "gsm8k: unknown option 'trian'; did you mean 'train'? The options are train, t",
        ),
        (
            "math",
            {"colour": 1},
            "math: unknown option 'colour'. The options are train, test, revision, test_revision, ",
        ),
        ("sudoku4", {"holes": 4}, "sudoku4: unknown option 'holes'; did you mean 'min_holes'? The options are min_ho"),
        ("tests.tasks.test_tasks:Mine", {"a": 1}, "test_tasks:Mine: unknown option 'a'. The task has no options"),
        ("tests.tasks.test_tasks:Wanting", {}, "test_tasks:Wanting: .*missing 1 required .*'length'"),
    ],
)
def test_options_that_do_not_exist(name: str, options: dict[str, Any], message: str) -> None:
    pattern = message if ".*" in message else re.escape(message)
    with pytest.raises(ValueError, match=f"^task_options of .*{pattern}"):
        load_task(name, **options)
    assert load_task("tests.tasks.test_tasks:Anything", colour=1)


@pytest.mark.parametrize("name", ["sudoku4", "sudoku9", "countdown"])
def test_rows_count_from_zero(name: str) -> None:
    with pytest.raises(ValueError, match="index must be an integer ≥ 0, got -1"):
        load_task(name).row("test", -1)
