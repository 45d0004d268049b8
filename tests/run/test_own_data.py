"""If these fail, a file of prompts and a reward are not enough for a run."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dmpo import DMPOConfig, DMPOTrainer
from dmpo.cli import main
from dmpo.config.embedded import keys_of_model
from dmpo.config.files import load_config
from dmpo.models.files import embedded_models
from dmpo.models.published import read_model_config
from dmpo.pretrain import character_tokenizer
from tests.small_runs import lines, settings
from tests.tiny_models import tiny

SIX_LINES = """\
model: sudoku-tiny
task: prompts
task_options: {train: prompts.jsonl}
reward: my_digits:score
output_dir: runs/mine
max_steps: 2
"""
REWARD = """
def score(completions, digit, **columns):
    return [text.count(one) / 16 for text, one in zip(completions, digit)]
"""
ROWS = [{"prompt": f"{n:06b}".replace("0", "2"), "digit": "1234"[n % 4]} for n in range(50)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder of a new user, after `dmpo train mine.yaml`."""
    folder, before = tmp_path_factory.mktemp("own"), Path.cwd()
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "my_digits.py").write_text(REWARD)
    (folder / "mine.yaml").write_text(SIX_LINES)
    os.chdir(folder)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dmpo.trainer.plot_run", lambda *arguments: None)
            patch.syspath_prepend(str(folder))
            assert main(["train", "mine.yaml"]) == 0
            yield folder
    finally:
        os.chdir(before)


def test_six_lines_and_a_reward_train(folder: Path) -> None:
    assert len(SIX_LINES.splitlines()) == 6
    run = folder / "runs" / "mine"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps_taken"] == 2
    assert summary["test_rows"] == 5
    assert 0 <= summary["greedy_reward_before"] <= 1
    assert not any("accuracy" in key for key in summary), "without an answer there is none"
    metrics = lines(run)
    assert all(0 < line["reward"] < 1 and line["grad_norm"] > 0 for line in metrics)
    assert 0 <= metrics[-1]["greedy_reward"] <= 1
    resolved = yaml.safe_load((run / "config.yaml").read_text())
    assert resolved["gen_length"] == 16
    assert resolved["max_prompt_length"] == 48
    assert {line["prompt"] for line in lines(run, "completions.jsonl")} <= {row["prompt"] for row in ROWS}


def test_an_evaluation_of_the_run_needs_a_verdict(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "runs/mine", "output_dir=results"]) == 2
    assert "task prompts cannot say which completions are solved" in capsys.readouterr().err
    verdict = "task_options.prompts.solved=my_digits:score"
    assert main(["eval", "runs/mine", "output_dir=results", verdict]) == 0
    (cell,) = json.loads((folder / "results" / "results.json").read_text())["cells"]
    records = lines(folder / "results", "results.jsonl")
    assert cell["examples"] == len(records) == 5
    for record in records:
        digit = record["columns"]["digit"]
        assert record["score"] == float(record["completion"].count(digit) > 8)


def test_saved_results_are_scored_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "saved.jsonl"
    file.write_text("".join(json.dumps({"completion": text, "answer": "Paris"}) + "\n" for text in ("paris", "Rome")))
    assert main(["eval", "--rescore", str(file), "task=prompts"]) == 0
    assert "50.0%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"reward": None},
            "task prompts has no reward of its own without a right answer: give reward: module:function",
        ),
        ({"task_options": {}}, "task_options of prompts need train: the file or the hub id of your prompts"),
        ({"task_options": {"train": "prompt.jsonl"}}, "data file prompt.jsonl does not exist"),
        ({"task_options": {"train": "prompts.jsonl", "promt": "q"}}, "unknown option 'promt'; did you mean 'prompt'"),
        (
            {"task_options": {"train": "prompts.jsonl", "prompt": "q"}},
            "no column 'q'; its columns are 'prompt', 'digit'",
        ),
        ({"task_options": {"train": "prompts.jsonl", "answer": "a"}}, "has no column 'a'; its columns are"),
    ],
)
def test_a_mistake_is_one_line_before_the_model_is_loaded(
    change: dict[str, Any],
    message: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dmpo.trainer.make_policy", lambda *_: pytest.fail("the model was loaded"))
    values = yaml.safe_load(SIX_LINES) | {"output_dir": "runs/wrong"} | change
    (folder / "wrong.yaml").write_text(yaml.safe_dump(values))
    assert main(["train", "wrong.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (folder / "runs" / "wrong").exists()


@pytest.mark.parametrize("model", embedded_models())
def test_what_an_embedded_model_suggests_fits_it(model: str) -> None:
    config = DMPOConfig(model=model, output_dir="out")
    assert config.task == "prompts"
    positions = read_model_config(model).max_position_embeddings
    assert config.gen_length + config.max_prompt_length == positions
    shipped = load_config(DMPOConfig, model)
    differ = {name for name, value in keys_of_model(model).items() if getattr(shipped, name) != value}
    assert differ == {"num_prompts", "max_prompt_length"}, "as the shipped run, but for prompts of any kind"
    assert DMPOConfig(model=model, output_dir="out", alpha=0.3, lora_r=4).alpha == 0.3


def test_a_folder_of_that_name_is_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert keys_of_model("sudoku-tiny")
    (tmp_path / "sudoku-tiny").mkdir()
    assert keys_of_model("sudoku-tiny") == keys_of_model("owner/name") == keys_of_model(None) == {}


def own_rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"prompt": f"{n:03b}".replace("0", "2"), "digit": "1"} for n in range(start, start + count)]


def ones(completions: list[str], digit: list[str], **columns: Any) -> list[float]:
    return [text.count(one) / 4 for text, one in zip(completions, digit, strict=True)]


def trainer(config: DMPOConfig, **objects: Any) -> DMPOTrainer:
    model = tiny(vocab_size=7, mask_id=1, eos_id=0, max_length=32)
    return DMPOTrainer(config, model=model, tokenizer=character_tokenizer(), **objects)


def test_rows_of_a_script_train_and_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import datasets

    monkeypatch.setattr("dmpo.trainer.plot_run", lambda *arguments: None)
    short: dict[str, Any] = {"task": "prompts", "max_steps": 1, "save_steps": 1, "eval_steps": 1}
    given: dict[str, Any] = {"train_dataset": own_rows(6), "eval_dataset": own_rows(2, 6), "reward": ones}
    with caplog.at_level(logging.WARNING, logger="dmpo"):
        summary = trainer(settings(tmp_path, **short), **given).train()
    assert summary["test_rows"] == 2
    message = "eval_prompts is 8, but evaluations have all there are: 1 rows of validation and 2 rows of test"
    assert message in caplog.messages
    more = settings(tmp_path, **short | {"max_steps": 2, "resume": True})
    with pytest.raises(ValueError, match=r"the train_dataset of this run was the object 6 rows, digest .* and is now"):
        trainer(more, **given | {"train_dataset": own_rows(5)})
    with pytest.raises(ValueError, match=r"the eval_dataset of this run was .* give DMPOTrainer that eval_dataset"):
        trainer(more, train_dataset=given["train_dataset"], reward=ones)
    given["train_dataset"] = datasets.Dataset.from_list(own_rows(6))
    assert trainer(more, **given).train()["steps"] == 2
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_rows_of_a_script_need_a_reward(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^task prompts has no reward of its own without a right answer: give reward"):
        trainer(settings(tmp_path / "run", task="prompts"), train_dataset=own_rows(8))
    answers = settings(tmp_path / "run", task="prompts", task_options={"answer": "digit"})
    assert trainer(answers, train_dataset=own_rows(8)).reward.score(["1", "2"], {"answer": ["1", "1"]}).values == [1, 0]
    assert not (tmp_path / "run").exists()
