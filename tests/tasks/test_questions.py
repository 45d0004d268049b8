"""If these fail, test answers leak into training, or a data set's rows are read wrongly."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import dmpo.tasks.questions
from dmpo.tasks import load_task, scoring_task
from dmpo.tasks.cells import as_text
from dmpo.tasks.splits import SPLITS, text_key
from tests.tasks.data_files import gsm8k_rows, math500_rows, math_rows, write


def questions(task: Any, split: str) -> list[str]:
    return [task.row(split, i)["question"] for i in range(task.size(split))]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_gsm8k_from_a_file(tmp_path: Path, suffix: str) -> None:
    train = write(tmp_path / f"train{suffix}", gsm8k_rows(20))
    test = write(tmp_path / f"test{suffix}", gsm8k_rows(6, start=50))
    task: Any = load_task("gsm8k", train=train, test=test, validation_rows=5)
    assert [task.size(split) for split in SPLITS] == [15, 5, 6]
    row = task.row("test", 0)
    assert row["answer"] == "52,000"
    assert row["solution"] == "She has 52 * 1000 = 52000 pens."
    assert row["prompt"] == task.template.replace("{question}", row["question"])
    assert task.row("test", 6) == row, "indices go round"
    with pytest.raises(ValueError, match="index must be an integer ≥ 0"):
        task.row("test", -1)
    for text, answer in (("<answer>52,000.0</answer>", "52000"), ("<answer>52</answer>", "52"), ("none", None)):
        assert task.parse(text, row) == answer
        assert task.solved(text, row) == (answer == "52000")
    assert task.reward([task.demonstrate(row)], answer=[row["answer"]]) == [4.0]
    assert "right is 52,000" in task.show("[b]<answer>5</answer>", row)


def test_math_from_files(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", math_rows(20))
    test = write(tmp_path / "test.jsonl", math500_rows(6))
    task: Any = load_task("math", train=train, test=test, validation_rows=5)
    assert [task.size(split) for split in SPLITS] == [15, 5, 6]
    row = task.row("test", 0)
    assert row["answer"] == r"\frac{103}{2}"
    assert task.row("train", 0)["answer"].startswith(r"\frac{"), "read from the solution's box"
    assert task.solved("<answer>51.5</answer>", row)
    assert not task.solved("<answer>51</answer>", row)
    assert task.parse(r"so \boxed{51.5}", row) == "51.5"
    assert task.reward([task.demonstrate(row)], answer=[row["answer"]]) == [3.0]
    assert "\\boxed{}" in row["prompt"]


def test_math_as_published(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """MATH's train split has 7,500 rows: two end in a box without braces, two in an empty one, some in several."""
    rows = math_rows(7500)
    endings = {
        888: (r"Adding, so the result is $\boxed 2$.", "2"),
        1011: (r"It is $3^2 = \boxed 9$.", "9"),
        2000: (r"Hence $k$ is $\boxed{1}$ or $\boxed{9}$.", "1,9"),
        5341: (r"There are $\boxed{}$ of them.", None),
        5343: (r"So $x = \boxed{}$.", None),
    }
    for number, (solution, _) in endings.items():
        rows[number]["solution"] = solution
    files = {
        "train": write(tmp_path / "train.jsonl", rows),
        "test": write(tmp_path / "test.jsonl", math500_rows(6, 9000)),
    }
    with caplog.at_level(logging.WARNING, logger="dmpo"):
        task: Any = load_task("math", **files)
    assert [task.size(split) for split in SPLITS] == [6998, 500, 6]
    (warning,) = caplog.messages
    assert f"data set {files['train']}: 2 of 7500 rows cannot be read" in warning
    assert "row 5341: no right answer in column solution: " in warning
    assert "row 5343: no right answer in column solution: 'So $x = \\\\boxed{}$.'; the row must have " in warning
    read = {row["solution"]: row["answer"] for row in task.rows["train"]}
    for solution, answer in endings.values():
        assert read.get(solution) == answer
    assert task.reward([task.demonstrate({"solution": "", "answer": "1,9"})], answer=["1,9"]) == [3.0]


@pytest.mark.parametrize(
    ("task", "row", "answer"),
    [
        ("gsm8k", {"question": "?", "answer": 72}, "72"),
        ("gsm8k", {"question": "?", "answer": "She has\n#### 72 "}, "72"),
        ("math", {"problem": "?", "answer": 72}, "72"),
        ("math", {"problem": "?", "answer": 0.5}, "0.5"),
        ("math", {"problem": "?", "answer": "", "solution": r"so $\boxed{72}$"}, "72"),
        ("math", {"problem": "?", "answer": None, "solution": r"so $\boxed{72}$"}, "72"),
        ("math", {"problem": "?", "answer": " x ", "solution": r"so $\boxed{72}$"}, "x"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_answers_are_numbers_or_texts(task: str, row: dict[str, Any], answer: str, suffix: str, tmp_path: Path) -> None:
    column = "question" if task == "gsm8k" else "problem"
    train = write(tmp_path / f"train{suffix}", [row | {column: f"How many? {i}"} for i in range(2)])
    test = write(tmp_path / f"test{suffix}", [row])
    loaded: Any = load_task(task, train=train, test=test, validation_rows=1)
    assert {loaded.row(split, 0)["answer"] for split in SPLITS} == {answer}


def test_a_number_as_a_text() -> None:
    values = (72, 72.0, 0.5, -3, " x ", "", None, True, float("nan"), float("inf"), [3])
    assert [as_text(value) for value in values] == ["72", "72", "0.5", "-3", "x", None, None, None, None, None, None]


@pytest.mark.parametrize(
    ("task", "bad", "message"),
    [
        ("gsm8k", {"answer": None}, "row 1: column answer must hold a number, or a text that ends in"),
        (
            "gsm8k",
            {"answer": "many"},
            """row 1: column answer must hold a number, or a text that ends in "#### 72", got 'm""",
        ),
        (
            "gsm8k",
            {"answer": True},
            """row 1: column answer must hold a number, or a text that ends in "#### 72", got T""",
        ),
        ("gsm8k", {"question": None}, "row 1: column question must be a text, got null"),
        (
            "math",
            {"answer": None},
            "row 1: no right answer in column answer: null; the row must have an answer in LaTeX",
        ),
        ("math", {"answer": float("nan")}, "row 1: no right answer in column answer: nan"),
    ],
)
def test_rows_that_cannot_be_read(
    task: str, bad: dict[str, Any], message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Up to half of a set is left out, and named in one warning; of a worse set the first row is named."""
    column = "question" if task == "gsm8k" else "problem"
    bad = {name if name == "answer" else column: value for name, value in bad.items()}
    good = [{column: f"How many? {i}", "answer": "#### 3"} for i in range(4)]
    test = write(tmp_path / "test.jsonl", [{column: "?", "answer": "#### 1"}])
    half = write(tmp_path / "half.jsonl", [good[0], good[1] | bad, good[2], good[3] | bad])
    with caplog.at_level(logging.WARNING, logger="dmpo"):
        loaded: Any = load_task(task, train=half, test=test, validation_rows=1)
    assert [loaded.size(split) for split in SPLITS] == [1, 1, 1]
    (warning,) = caplog.messages
    assert warning.startswith(f"data set {half}: 2 of 4 rows cannot be read and are left out")
    assert message in warning
    assert "row 3: " in warning
    most = write(tmp_path / "most.jsonl", [good[0], *(row | bad for row in good[1:])])
    with pytest.raises(ValueError) as refusal:
        load_task(task, train=most, test=test, validation_rows=1)
    assert str(refusal.value).startswith(f"data set {most}: 3 of 4 rows cannot be read. The first is {message}")


def test_a_warning_names_a_few_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [row | ({"answer": None} if i < 9 else {}) for i, row in enumerate(gsm8k_rows(20))]
    test = write(tmp_path / "test.jsonl", gsm8k_rows(2, start=50))
    with caplog.at_level(logging.WARNING, logger="dmpo"):
        load_task("gsm8k", train=write(tmp_path / "train.jsonl", rows), test=test, validation_rows=1)
    assert "9 of 20 rows" in caplog.text
    assert "row 4: " in caplog.text
    assert caplog.text.rstrip().endswith("; and 4 more")


def test_splits_share_no_question(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Three of the training questions are also in the test set, with other capitals and spaces; two are there twice."""
    test = gsm8k_rows(6, start=50)
    leaks = [row | {"question": "  " + row["question"].upper().replace(" ", "  ")} for row in test[:3]]
    twice = gsm8k_rows(20)[:2]
    sources = {
        "train": write(tmp_path / "train.jsonl", [*gsm8k_rows(20), *leaks, *twice]),
        "test": write(tmp_path / "test.jsonl", test),
    }
    with caplog.at_level(logging.WARNING, logger="dmpo"):
        task: Any = load_task("gsm8k", **sources, validation_rows=8)
    assert "3 training rows" in caplog.text
    found = {split: questions(task, split) for split in SPLITS}
    assert set(found["test"]) == {row["question"] for row in test}, "the test set is as it was"
    assert len(set(found["validation"])) == 8
    assert set(found["train"]) | set(found["validation"]) == {row["question"] for row in gsm8k_rows(20)}
    assert not set(found["train"]) & set(found["validation"])
    shuffled: Any = load_task(
        "gsm8k", train=write(tmp_path / "again.jsonl", gsm8k_rows(20)[::-1]), test=sources["test"], validation_rows=8
    )
    assert set(questions(shuffled, "validation")) == set(found["validation"]), "whatever the order of the rows"


def test_what_makes_two_questions_the_same() -> None:
    assert text_key("What is  1.5 + $2$?") == text_key("what is 1.5 +2")
    assert text_key("Find x_{1}.") == text_key("find x1")
    different = ("1.5+2", "15+2", "1.5-2", "1.5*2", "1.5/2", "2+1.5", "1.5<2", "１.5+2")
    assert len({text_key(text) for text in different}) == len(different)


def test_long_questions_are_left_out_of_training_alone(tmp_path: Path) -> None:
    rows = [row | {"question": row["question"] + " Think!" * 40} for row in gsm8k_rows(4)]
    sources = {
        "train": write(tmp_path / "train.jsonl", [*gsm8k_rows(8, start=20), *rows]),
        "test": write(tmp_path / "test.jsonl", [rows[0], *gsm8k_rows(2, start=40)]),
    }
    task: Any = load_task("gsm8k", **sources, validation_rows=2, longest=100)
    assert [task.size(split) for split in SPLITS] == [6, 2, 3]
    assert max(map(len, questions(task, "train"))) <= 100


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"question": "?", "answer": "none"}], {}, "row 0: column answer must hold a number"),
        ([{"question": "", "answer": "#### 1"}], {}, "row 0: column question must be a text"),
        ([{"problem": "?", "answer": "#### 1"}], {}, "needs a column question .*got columns problem, answer"),
        (
            [{"question": "?", "solution": "1"}],
            {},
            "needs a column answer .a number, or a text.*, got columns question, solution",
        ),
        (gsm8k_rows(3), {"validation_rows": 3}, "validation_rows is 3; give more rows"),
        (gsm8k_rows(3), {"validation_rows": 0}, "validation_rows must be an integer ≥ 1"),
        (gsm8k_rows(3), {"template": "x"}, r"template must contain \{question\}"),
        (gsm8k_rows(3), {"revision": "main"}, "revision 'main' needs a hub data set, but"),
        (
            gsm8k_rows(3),
            {"rows": 3},
            "task_options of gsm8k: unknown option 'rows'.* options are train, test, revision",
        ),
    ],
)
def test_bad_data(tmp_path: Path, rows: list[dict[str, Any]], options: dict[str, Any], message: str) -> None:
    test = write(tmp_path / "test.jsonl", gsm8k_rows(2, start=50))
    with pytest.raises(ValueError, match=message):
        load_task("gsm8k", train=write(tmp_path / "train.jsonl", rows), test=test, **options)


def test_data_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"data file .*absent\.jsonl does not exist"):
        load_task("gsm8k", train=str(tmp_path / "absent.jsonl"))
    (tmp_path / "rows.txt").write_text("x")
    with pytest.raises(ValueError, match=r"must end in one of \.json, \.jsonl"):
        load_task("gsm8k", train=str(tmp_path / "rows.txt"))
    (tmp_path / "broken.jsonl").write_text("{")
    with pytest.raises(ValueError, match=r"file .*broken\.jsonl, line 1: is no JSON"):
        load_task("gsm8k", train=str(tmp_path / "broken.jsonl"))

    def load_dataset(**wanted: Any) -> Any:
        raise ConnectionError("no network")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(ValueError, match="data set openai/gsm8k:main cannot be loaded: ConnectionError: no network"):
        load_task("gsm8k")


def test_what_is_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids, configs, splits and revisions, as `datasets.load_dataset` takes them."""
    import datasets

    asked = []

    def load_dataset(**wanted: Any) -> Any:
        asked.append(wanted)
        return datasets.Dataset.from_list(gsm8k_rows(4, start=50 if wanted["split"] == "test" else 0))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    load_task("gsm8k", validation_rows=1, revision="abc")
    hub = {"path": "openai/gsm8k", "name": "main", "revision": "abc"}
    assert asked == [hub | {"split": "train"}, hub | {"split": "test"}]

    def math(**wanted: Any) -> Any:
        asked.append(wanted)
        rows = math500_rows(4) if wanted["split"] == "test" else math_rows(4)
        return datasets.Dataset.from_list(rows)

    asked.clear()
    monkeypatch.setattr(datasets, "load_dataset", math)
    load_task("math", validation_rows=1, revision="abc", test_revision="def")
    assert asked == [
        {"path": "DigitalLearningGmbH/MATH-lighteval", "name": None, "revision": "abc", "split": "train"},
        {"path": "HuggingFaceH4/MATH-500", "name": None, "revision": "def", "split": "test"},
    ]


@pytest.mark.parametrize("name", ["gsm8k", "math"])
def test_a_task_for_scoring_alone_loads_no_data(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("data was read")

    monkeypatch.setattr(dmpo.tasks.questions, "read_rows", refuse)
    task: Any = scoring_task(name)
    assert task.solved("<answer>\\boxed{52}</answer>" if name == "math" else "<answer>52</answer>", {"answer": "52"})
    assert [task.size(split) for split in SPLITS] == [0, 0, 0]
    with pytest.raises(ValueError, match="no rows of test: it was made to score completions alone; use load_task"):
        task.row("test", 0)
    with pytest.raises(AssertionError, match="data was read"):
        scoring_task(name, validation_rows=5)
