"""If these fail, a row that cannot be learned costs hours, or is learned wrongly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dmpo.cli.entry import main
from dmpo.config.files import load_config, shipped_configs
from dmpo.config.kinds import kind_of_run
from dmpo.config.sft import SFTConfig
from dmpo.tasks import load_task
from tests.sft.problems import Doubles, settings, trainer
from tests.small_runs import CountOnes


class OneRow(Doubles):
    """Its training row 7 has another prompt or answer."""

    def __init__(self, **changes: Any) -> None:
        self.changes = changes

    def row(self, split: str, index: int) -> dict[str, Any]:
        row = super().row(split, index) | {"answer": None}
        return row | self.changes if (split, index) == ("train", 7) else row

    def demonstrate(self, row: dict[str, Any]) -> str:
        return super().demonstrate(row) if row["answer"] is None else str(row["answer"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "12341"}, "train row 7: the answer has 5 tokens, must be 1 to gen_length 4"),
        ({"answer": ""}, "train row 7: there is no answer to learn from"),
        ({"answer": "1<mask>"}, "train row 7: the answer has the mask token 1"),
        ({"prompt": "<mask>"}, "train row 7: the prompt has the mask token 1"),
        ({"prompt": "12341"}, "train row 7: prompt has 5 tokens, must be 1 to max_prompt_length 4"),
    ],
)
def test_a_wrong_row_is_named_before_any_work(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(settings(tmp_path / "run", max_steps=9), OneRow(**changes))
    assert not (tmp_path / "run").exists()


def test_a_task_needs_answers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="CountOnes has no answers to learn from: it needs a method demonstrate"):
        trainer(settings(tmp_path / "run"), CountOnes())


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def messages(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def test_own_data_have_completions_or_conversations(tmp_path: Path) -> None:
    texts = write(tmp_path / "texts.jsonl", [{"prompt": f"q{i}", "completion": f" a{i} "} for i in range(9)])
    task: Any = load_task("prompts", train=texts, completion="completion")
    row = task.row("train", 0)
    assert task.demonstrate(row) == f" a{row['prompt'][1:]} "
    assert not task.judges
    turns = write(tmp_path / "turns.jsonl", [{"talk": messages(f"q{i}", f"a{i}")} for i in range(9)])
    task = load_task("prompts", train=turns, prompt="talk", completion="talk")
    row = task.row("train", 0)
    assert row["prompt_messages"] == [{"role": "user", "content": row["prompt"]}]
    assert task.demonstrate(row) == f"a{row['prompt'][1:]}"
    answers = write(
        tmp_path / "answers.jsonl", [{"prompt": f"q{i}", "answer": i, "reply": f"It is {i}."} for i in range(9)]
    )
    task = load_task("prompts", train=answers, answer="answer", completion="reply")
    row = task.row("train", 0)
    assert task.demonstrate(row) == f"It is {row['answer']}."
    assert task.judges


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (None, "row 4: column completion: there is no answer to learn from: got null, must be a text"),
        ("  ", "row 4: column completion: there is no answer to learn from"),
        ([{"role": "user", "content": "x"}], "row 4: column completion: the last message .* must be the assistant's"),
    ],
)
def test_own_data_without_an_answer_are_named_with_their_row(cell: Any, message: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "completion": cell if i == 4 else "a"} for i in range(9)]
    with pytest.raises(ValueError, match=message):
        load_task("prompts", train=write(tmp_path / "rows.jsonl", rows), completion="completion")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size must be ≥ 1, got 0"),
        ({"mask_rate_min": 0.0}, "mask_rate_min must be > 0 where token_weights is rate"),
        ({"temperature": 0.5}, "temperature must be left out: eval_temperature is of evaluations"),
        ({"num_prompts": 4}, "unknown config key 'num_prompts'"),
    ],
)
def test_wrong_keys_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        settings(tmp_path, **changes)


@pytest.mark.parametrize("name", shipped_configs(SFTConfig))
def test_shipped_configs_are_found_as_such(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert kind_of_run(name) is SFTConfig
    config = load_config(SFTConfig, name)
    assert config.output_dir == f"runs/{name}"
    assert main(["config", name]) == 0
    assert "batch_size" in capsys.readouterr().out
    assert main(["train", name]) == 2
    assert f"run dmpo sft {name}" in capsys.readouterr().err


def test_dmpo_sft_fine_tunes_an_embedded_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmpo.sft.plot_sft_run", lambda *arguments: None)  # takes longer than the run
    sizes = ["max_steps=2", "batch_size=4", "eval_prompts=2", "warmup_steps=0"]
    assert main(["sft", "sudoku-tiny-sft", f"output_dir={tmp_path / 'run'}", *sizes]) == 0
    assert "held-out loss" in capsys.readouterr().out
    assert main(["sft", "sudoku-tiny-sft", f"output_dir={tmp_path / 'run'}", *sizes]) == 2
    assert "is not empty: pass resume=true" in capsys.readouterr().err
    assert main(["plan", str(tmp_path / "run" / "config.yaml")]) == 0
    assert "fits 80 GB" in capsys.readouterr().out


def test_the_step_of_a_run_in_which_all_is_infinite_is_kept_as_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmpo.sft.accumulate", lambda *arguments, **named: [float("nan")])
    run = trainer(settings(tmp_path, max_skipped_steps=2, eval_steps=0))
    with pytest.raises(FloatingPointError, match="the last 2 steps had a loss or gradient that is not finite"):
        run.train()
    rows = json.loads((tmp_path / "not-finite-step-2" / "rank-0.json").read_text())
    assert len(rows) == 6
    assert {"prompt", "answer", "row_id"} == rows[0].keys()
