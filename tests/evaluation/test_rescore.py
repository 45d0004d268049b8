"""If these fail, completions that others saved are misread or scored by something else than the tasks' parsers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dmpo.cli import main
from dmpo.evaluation.rescore import RescoreConfig, rescore
from tests.evaluation.toys import ONES

PUBLISHED = {  # the form in which d1 and its successors save what they generate
    "generations": [
        {
            "question": "How many sheets?",
            "prompt_input": "<|user|>How many sheets?",
            "generations": "<reasoning>\n70 · 120\n</reasoning>\n<answer>\n8,400\n</answer><|eot_id|>",
            "ground_truth": 8400.0,
        },
        {"question": "b", "prompt_input": "b", "generations": "<answer>$18.0</answer>", "ground_truth": "18"},
        {"question": "c", "prompt_input": "c", "generations": "I do not know.", "ground_truth": 5},
        {"question": "d", "prompt_input": "d", "generations": "\\boxed{7}", "ground_truth": 8},
    ],
    "metrics": {"wall_time": 3.0},
    "gen_length": 256,
}


def file_of(folder: Path, value: Any, name: str = "saved.json") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(v) + "\n" for v in value) if name.endswith("l") else json.dumps(value))
    return str(path)


def shares(config: RescoreConfig) -> tuple[float, float]:
    cell = rescore(config)["cells"][0]
    return cell["pass@1"]["value"], cell["answered"]


def test_published_generations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, folder = file_of(tmp_path, PUBLISHED), tmp_path / "out"
    assert main(["eval", "--rescore", file, "task=gsm8k", f"output_dir={folder}"]) == 0
    assert "50.0% [15.0%, 85.0%]" in capsys.readouterr().out
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [line["score"] for line in lines] == [1.0, 1.0, 0.0, 0.0]
    assert [line["answer"] for line in lines] == ["8400", "18", None, "7"]
    assert lines[0]["prompt"] == "How many sheets?"
    assert (folder / "results.png").exists()
    assert "| gsm8k | 256 | 4 | 50.0% [15.0%, 85.0%] | 75.0% |" in (folder / "results.md").read_text()
    assert main(["eval", "--rescore", file, "task=gsm8k", f"output_dir={folder}"]) == 2, "results are not overwritten"


def test_lines_with_fields_of_ones_own(tmp_path: Path) -> None:
    records = [{"said": "<answer>1</answer>", "right": "1"}, {"said": "<answer>2</answer>", "right": "3"}]
    file = file_of(tmp_path, records, "saved.jsonl")
    assert shares(RescoreConfig(file=file, task="gsm8k", completion="said", answer="right")) == (0.5, 1.0)
    file_of(tmp_path, records[:1], "more.json")
    folder = RescoreConfig(file=str(tmp_path), task="gsm8k", completion="said", answer="right")
    wanted: tuple[Any, float] = (pytest.approx(2 / 3), 1.0)
    assert shares(folder) == wanted


@pytest.mark.parametrize(
    ("task", "record", "right"),
    [
        ("math", {"completion": r"so \boxed{\frac{1}{2}}", "answer": "0.5"}, True),
        ("math", {"completion": r"so \boxed{\frac{1}{3}}", "answer": "0.5"}, False),
        ("countdown", {"completion": "<answer>3*5+2</answer>", "nums": [3, 5, 2], "target": 17}, True),
        ("countdown", {"completion": "<answer>(5-2)*3</answer>", "ground_truth": [[3, 5, 2], 9]}, True),
        ("countdown", {"completion": "<answer>9**9**9**9</answer>", "ground_truth": [[3, 5, 2], 9]}, False),
        ("sudoku4", {"completion": "1234341221434321", "question": "Solve 123434122143432. now", "answer": "x"}, True),
        ("sudoku4", {"completion": "1234341221434312", "puzzle": "1234341221434300"}, False),
        ("sudoku4", {"completion": "1234341221434321", "puzzle": "1 2 3 4\n3 4 1 2\n2 1 4 3\n. 0 2 1"}, True),
        ("countdown", {"completion": "<answer>3*5+2</answer>", "nums": "3,5,2", "target": "17"}, True),
        ("countdown", {"completion": "<answer>35-2</answer>", "nums": "[35, 2]", "target": 33}, True),
        ("gsm8k", {"completion": None, "answer": 3}, False),
        ("gsm8k", {"completions": [None], "answer": 3}, False),
        ("gsm8k", {"response": None, "output": "<answer>3</answer>", "answer": 3}, True),
        (ONES, {"completion": "213", "answer": ""}, True),
    ],
)
def test_tasks(task: str, record: dict[str, Any], right: bool, tmp_path: Path) -> None:
    assert shares(RescoreConfig(file=file_of(tmp_path, [record]), task=task))[0] == right


def test_samples_of_an_example(tmp_path: Path) -> None:
    texts = ["<answer>1</answer>", "<answer>2</answer>"]
    file = file_of(tmp_path, [{"completions": texts, "answer": 1}, {"completions": texts[1:] * 2, "answer": 1}])
    cell = rescore(RescoreConfig(file=file, task="gsm8k", pass_at=[1, 2]))["cells"][0]
    assert (cell["examples"], cell["samples"]) == (2, 2)
    assert (cell["pass@1"]["value"], cell["pass@2"]["value"]) == (0.25, 0.5)


def test_files_of_several_lengths_are_cells_of_their_own(tmp_path: Path) -> None:
    for name, length in (("gsm8k_128_0", 128), ("gsm8k_128_1", 128), ("gsm8k_256_0", 256)):
        file_of(tmp_path, PUBLISHED | {"gen_length": length}, f"{name}_generations.json")
    cells = rescore(RescoreConfig(file=str(tmp_path), task="gsm8k"))["cells"]
    assert [(cell["gen_length"], cell["examples"], cell["pass@1"]["value"]) for cell in cells] == [
        (128, 8, 0.5),
        (256, 4, 0.5),
    ]


def test_output_of_an_evaluation(tmp_path: Path) -> None:
    place = {"task": "gsm8k", "split": "test", "sample": 0, "gen_length": 8, "decoder": "topk"}
    lines = [place | {"index": i, "completion": f"<answer>{i}</answer>", "columns": {"answer": "1"}} for i in range(4)]
    file_of(tmp_path, {"model": {}}, "evaluation.json")
    config = RescoreConfig(file=str(tmp_path), task="gsm8k")
    with pytest.raises(ValueError, match=r"results\.jsonl cannot be read"):
        rescore(config)
    file_of(tmp_path, lines, "results.jsonl")
    file_of(tmp_path, {"cells": []}, "results.json")
    cell = rescore(config)["cells"][0]
    assert (cell["gen_length"], cell["decoder"], cell["examples"], cell["pass@1"]["value"]) == (8, "topk", 4, 0.25)


def sample(number: int, text: str, right: str, **changes: Any) -> dict[str, Any]:
    """A line of lm-eval's samples_gsm8k_*.jsonl."""
    question = f"What is {number}?"
    return {
        "doc_id": number,
        "doc": {"question": question, "answer": f"so #### {right}"},
        "target": f"so #### {right}",
        "arguments": [[f"Q: {question}\nA:", {"until": ["Q:"]}]],
        "resps": [[text]],
        "filtered_resps": [text[-2:]],
        "exact_match": 1.0,
    } | changes


def test_samples_of_lm_eval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = [sample(0, "The answer is 4.<|eot_id|>", "4"), sample(1, "The answer is 7.", "6")]
    file = file_of(tmp_path, samples, "samples_gsm8k_2026.jsonl")
    assert main(["eval", "--rescore", file, "task=gsm8k"]) == 0
    printed = capsys.readouterr().out
    assert "50.0% [9.5%, 90.5%]" in printed, "the table is printed without an output_dir, too"
    file_of(tmp_path, {"results": {"gsm8k": {"exact_match,strict-match": 0.5}}}, "results_2026.json")
    summary = rescore(RescoreConfig(file=str(tmp_path), task="gsm8k"))
    assert (summary["left_out"], summary["cells"][0]["examples"]) == (0, 2), "of a folder the samples alone"
    rescore(RescoreConfig(file=file, task="gsm8k", output_dir=str(tmp_path / "out")))
    line = json.loads((tmp_path / "out" / "results.jsonl").read_text().splitlines()[0])
    assert (line["prompt"], line["completion"]) == ("Q: What is 0?\nA:", "The answer is 4.<|eot_id|>")


def test_each_document_of_lm_eval_counts_once(tmp_path: Path) -> None:
    """A task with two filters has each document twice, with the same texts; the filters' own readings do not count."""
    samples = [
        sample(number, f"#### {number}", "1", filter=name, filtered_resps=["[invalid]"])
        for name in ("strict-match", "flexible-extract")
        for number in range(4)
    ]
    file = file_of(tmp_path, samples, "samples.jsonl")
    cell = rescore(RescoreConfig(file=file, task="gsm8k"))["cells"][0]
    assert (cell["examples"], cell["pass@1"]["value"]) == (4, 0.25)


@pytest.mark.parametrize(
    ("task", "changes", "right"),
    [
        ("gsm8k", {"resps": ["#### 3"]}, 1),
        ("gsm8k", {"resps": [["#### 3", "#### 4"]]}, 0.5),
        ("gsm8k", {"resps": [[None]]}, 0),
        ("gsm8k", {"target": None}, 1),
        ("gsm8k", {"doc": "?"}, 1),
        ("gsm8k", {"arguments": {"gen_args_0": {"arg_0": "Q"}}, "doc": {}}, 1),
        (
            "math",
            {"doc": {"problem": "?"}, "target": r"so $\boxed{3}$ or $\boxed{9}$", "resps": [[r"\boxed{9, 3}"]]},
            1,
        ),
        ("math", {"doc": {"problem": "?"}, "target": "3", "resps": [[r"so \boxed{3}.<|im_end|>"]]}, 1),
        ("countdown", {"doc": {"nums": [3, 5, 2], "target": 17}, "target": "17", "resps": [["3*5+2"]]}, 1),
        ("sudoku4", {"doc": {"puzzle": "123434122143432."}, "resps": [["1234341221434321"]]}, 1),
    ],
)
def test_forms_of_samples(task: str, changes: dict[str, Any], right: float, tmp_path: Path) -> None:
    file = file_of(tmp_path, [sample(3, "#### 3", "3", **changes)], "samples.jsonl")
    assert shares(RescoreConfig(file=file, task=task))[0] == right


def test_right_answers_that_are_null(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are left out, counted and named; a file is refused where most are null."""
    records = [
        {"generations": f"<answer>{number}</answer><|eot_id|>", "ground_truth": right}
        for number, right in enumerate((0.0, None, 2.0, "", 9.0, "many"))
    ]
    config = RescoreConfig(file=file_of(tmp_path, records), task="gsm8k", output_dir=str(tmp_path / "out"))
    summary = rescore(config)
    assert (summary["left_out"], summary["cells"][0]["examples"]) == (3, 3)
    assert summary["cells"][0]["pass@1"]["value"] == pytest.approx(2 / 3)
    (warning,) = caplog.messages
    assert warning.startswith(f"file {config.file}: 3 of 6 records cannot be read and are left out")
    assert "record 1: right answer ground_truth: must be a text or a number, got null; record 3: " in warning
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == [0, 2, 4], "the places in the file"
    worse = file_of(tmp_path, [*records, records[1]], "worse.json")
    with pytest.raises(ValueError, match=r"worse\.json: 4 of 7 records cannot be read\. The first is record 1: right "):
        rescore(RescoreConfig(file=worse, task="gsm8k"))


@pytest.mark.parametrize("ending", ["<|eot_id|>", "<|endoftext|>" * 3, "</s>", " <eos>\n", "<|im_end|>\n<|endoftext|>"])
@pytest.mark.parametrize(
    ("task", "record"),
    [
        ("gsm8k", {"completion": "42", "answer": 42}),
        ("gsm8k", {"completion": "<answer>42", "answer": 42}),
        ("math", {"completion": r"\frac12", "answer": "0.5"}),
        ("math", {"completion": r"<answer>\boxed{0.5}</answer>", "answer": "0.5"}),
        ("countdown", {"completion": "3*5+2", "nums": [3, 5, 2], "target": 17}),
        ("sudoku4", {"completion": "1234341221434321", "puzzle": "123434122143432."}),
    ],
)
def test_special_tokens_at_the_end(task: str, record: dict[str, Any], ending: str, tmp_path: Path) -> None:
    record["completion"] += ending
    assert shares(RescoreConfig(file=file_of(tmp_path, [record]), task=task)) == (1, 1)


def test_an_empty_answer_beside_a_boxed_solution(tmp_path: Path) -> None:
    record = {"completion": r"\boxed{72}", "answer": "", "solution": r"so $\boxed{72}$"}
    assert shares(RescoreConfig(file=file_of(tmp_path, [record]), task="math"))[0] == 1


@pytest.mark.parametrize("mark", ["\u2028", "\u0085", "\ufeff"])
def test_signs_that_end_a_line_elsewhere(mark: str, tmp_path: Path) -> None:
    records = [{"completion": f"so{mark}<answer>{i}</answer>", "answer": 1} for i in range(2)]
    path = tmp_path / "saved.jsonl"
    start = mark if mark == "\ufeff" else ""  # which some editors write first
    texts = [json.dumps(record, ensure_ascii=False) for record in records]
    path.write_bytes((start + "\r\n".join(texts) + "\r\n\r\n").encode())
    assert shares(RescoreConfig(file=str(path), task="gsm8k")) == (0.5, 1.0)


def test_hostile_text(tmp_path: Path) -> None:
    texts = ["", "\x00", "\ud800", "(" * 10_000, "<answer>" * 5000, "٣", "1e999999999"]
    file = file_of(tmp_path, [{"completion": text, "answer": 3} for text in texts])
    assert shares(RescoreConfig(file=file, task="gsm8k", output_dir=str(tmp_path / "out")))[0] == 0
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == len(texts)


@pytest.mark.parametrize(
    ("value", "overrides", "message"),
    [
        ([{"completion": "1", "answer": 1}], ["task=gsm9k"], "unknown task 'gsm9k'"),
        ([{"text": "1", "answer": 1}], ["task=gsm8k"], "record 0: has no completion (any of completion,"),
        (
            [{"completion": "1", "answer": 1}],
            ["task=gsm8k", "completion=said"],
            "has no completion ('said'); its fields",
        ),
        ([{"completion": None, "answer": 1}], ["task=gsm8k", "completion=said"], "has no completion ('said')"),
        ([{"completion": "1"}], ["task=gsm8k"], "has no right answer"),
        ([{"completion": "1", "nums": "3,x", "target": 3}], ["task=countdown"], "must have a list of integers"),
        ([{"completion": "1", "puzzle": "1 2 3 4"}], ["task=sudoku4"], "puzzle must be 16 digits"),
        ([{"completion": "1", "answer": "many"}], ["task=gsm8k"], "right answer states no number: 'many'"),
        ([{"completion": 1, "answer": 1}], ["task=gsm8k"], "completion must be a text"),
        ([{"completion": "1", "answer": 1}], ["task=countdown"], "has no numbers"),
        ([{"completion": "1", "prompt": "12"}], ["task=sudoku4"], "puzzle must be 16 digits"),
        ([], ["task=gsm8k"], "holds no records"),
        ([1], ["task=gsm8k"], "record 0: must be a JSON object, got int"),
        ("{", ["task=gsm8k"], "line 1: is no JSON"),
        (
            [sample(0, "", "1", resps=[[["-1.5", "False"]]])],
            ["task=gsm8k"],
            "record 0: resps must hold texts, got [[['-1",
        ),
        (
            [{"completion": "1", "answer": None}],
            ["task=gsm8k"],
            "right answer answer: must be a text or a number, got n",
        ),
        ([{"completion": "1", "solution": "\\boxed{}"}], ["task=math"], "right answer is an empty box"),
        ([{"completion": "1", "answer": 1}], ["task=gsm8k", "pass_at=2"], "k ≤ samples"),
    ],
)
def test_mistakes_are_one_line(
    value: Any, overrides: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "saved.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    assert main(["eval", "--rescore", str(path), *overrides]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed.strip().splitlines()) == 1


def test_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--rescore", "no/such/file.json", "task=gsm8k"]) == 2
    assert "no/such/file.json cannot be read" in capsys.readouterr().err
