"""If these fail, an embedded model cannot be made again, or is not the sloppy solver that the demonstration needs."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dmpo import DMPOConfig, load_model, load_tokenizer
from dmpo.cli import main
from dmpo.config.files import load_config
from dmpo.config.pretrain import PretrainConfig
from dmpo.evaluation.held_out import evaluate
from dmpo.models.files import recipe_overrides
from dmpo.pretrain import character_tokenizer, pretrain
from dmpo.tasks import load_task

PACKAGE = Path(str(files("dmpo")))
EMBEDDED = PACKAGE / "models" / "embedded"
MODELS = ["sudoku-tiny", "countdown-tiny"]
SMALL = PretrainConfig(
    output_dir="",
    hidden_size=16,
    num_layers=1,
    num_heads=2,
    mlp_hidden_size=32,
    batch_size=8,
    correct_steps=3,
    sloppy_steps=2,
)


def test_same_seed_same_model() -> None:
    first, second = (pretrain(SMALL).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


# The losses of the first steps, of right and of sloppy demonstrations, when the embedded models were made.
FIRST_LOSSES = {
    "sudoku4": [2.0584261, 2.0793264, 2.0870893, 2.0944269, 2.0714366],
    "countdown": [3.0009112, 3.0118723, 3.0147150, 2.9832287, 2.9914908],
}


@pytest.mark.parametrize("task", FIRST_LOSSES)
def test_rows_masks_and_learning_rates_are_those_of_the_embedded_models(task: Any) -> None:
    options = {"counts": [3], "largest": 9, "signs": "+-*", "template": "{numbers}={target}"}
    losses: list[float] = []
    made = replace(SMALL, task=task, task_options=options if task == "countdown" else {})
    pretrain(made, lambda step, loss: losses.append(loss))
    assert losses == pytest.approx(FIRST_LOSSES[task], rel=1e-5)


def test_tokenizer_round_trip() -> None:
    tokenizer = character_tokenizer()
    ids = tokenizer("1.34")["input_ids"]
    assert ids == [3, 2, 5, 6]
    assert tokenizer.decode(ids) == "1.34"
    assert tokenizer.decode([0, 3, 1], skip_special_tokens=True) == "1"


def test_cli_writes_a_checkpoint(tmp_path: Path) -> None:
    sizes = [f"{k}={v}" for k, v in vars(SMALL).items() if k not in ("output_dir",) and not k.startswith("_")]
    assert main(["pretrain", f"output_dir={tmp_path / 'made'}", *sizes]) == 0
    assert json.loads((tmp_path / "made" / "config.json").read_text())["model_type"] == "llada"
    assert load_model(tmp_path / "made").config.mask_token_id == 1
    assert load_tokenizer(tmp_path / "made")("12")["input_ids"] == [3, 4]
    assert main(["pretrain", f"output_dir={tmp_path / 'made'}", *sizes]) == 2


def recipe(name: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((EMBEDDED / name / "recipe.json").read_text())
    return made


def test_the_default_recipe_is_that_of_sudoku_tiny() -> None:
    assert recipe("sudoku-tiny") == vars(PretrainConfig(output_dir="sudoku-tiny"))


@pytest.mark.parametrize("name", MODELS)
def test_a_shipped_model(name: str) -> None:
    assert sum(path.stat().st_size for path in (EMBEDDED / name).iterdir()) <= 3_000_000
    made, config = PretrainConfig(**recipe(name)), load_config(DMPOConfig, name, ["eval_prompts=256"])
    assert (made.output_dir, config.model) == (name, name)
    assert (made.task, made.task_options) == (config.task, config.task_options), "trained on what it was shown"
    assert "seed=0" in recipe_overrides(name)
    result = evaluate(
        load_model(name, dtype="float32"),
        load_tokenizer(name),
        load_task(config.task, **config.task_options),
        config,
        split="test",
    )
    # Same rows and draws as the first of `make train`: the start that README and summary.json report.
    assert 0.05 <= result.sampled.mean <= 0.25
    assert result.greedy.mean > result.sampled.mean + 0.15, "it knows, but answers badly"


def test_a_recipe_by_its_name(tmp_path: Path) -> None:
    small = ["hidden_size=16", "num_layers=1", "num_heads=2", "mlp_hidden_size=32", "batch_size=4"]
    few = ["correct_steps=1", "sloppy_steps=1"]
    assert main(["pretrain", "countdown-tiny", f"output_dir={tmp_path / 'made'}", *small, *few]) == 0
    made = json.loads((tmp_path / "made" / "recipe.json").read_text())
    asked = dict(item.split("=") for item in [*small, *few]) | {"output_dir": str(tmp_path / "made")}
    assert {key: str(made[key]) for key in asked} == asked
    assert {key: made[key] for key in made if key not in asked} == {
        key: value for key, value in recipe("countdown-tiny").items() if key not in asked
    }
    assert load_tokenizer(tmp_path / "made")("3, 5, 2=16")["input_ids"] == [7, 2, 9, 2, 6, 3, 5, 10]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["countdown-tinny"], "no embedded model 'countdown-tinny', choose one of countdown-tiny, sudoku-tiny"),
        (["task=gsm8k"], "config key 'task': Input should be 'sudoku4' or 'countdown', got 'gsm8k'"),
        (["countdown-tiny", "task_options.largest=1"], "largest must be an integer ≥ 2"),
        (["task=countdown"], "the teacher of countdown needs three numbers from 0 to 9, got ["),
        (["task=countdown", "task_options.counts=[3]", "task_options.largest=9"], "reads and writes only ', ' '=' '0'"),
        (["countdown-tiny", "task_options.signs='+-*/'"], "'*' '(' ')', got '"),
        (["countdown-tiny", "task_options.signs=+"], "the teacher of countdown needs at least two signs, got '+'"),
        (
            ["countdown-tiny", f"task_options.template='{'0' * 56}{{numbers}}={{target}}'"],
            "together they must have at most 64",
        ),
    ],
)
def test_bad_recipes(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", *arguments, "output_dir=made"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", MODELS)
def test_a_shipped_config_is_commented_yaml(name: str) -> None:
    text = (PACKAGE / "config" / "shipped" / f"{name}.yaml").read_text()
    assert text.startswith("#")
    assert yaml.safe_load(text)["model"] == name


def test_a_step_of_countdown_tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmpo.trainer.plot_run", lambda *arguments: None)  # longer than the run
    few = ["num_prompts=4", "num_generations=4", "max_steps=1", "gradient_steps=1", "eval_prompts=8", "eval_steps=0"]
    assert main(["train", "countdown-tiny", f"output_dir={tmp_path / 'run'}", *few]) == 0
    (line,) = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert line["reward_failures"] == 0
    assert 0 < line["reward"] < 1.0
    assert math.isfinite(line["loss"])
    first, *_ = [json.loads(text) for text in (tmp_path / "run" / "completions.jsonl").read_text().splitlines()]
    assert re.fullmatch(r"[1-9], [1-9], [1-9]=[0-9]{1,2}", first["prompt"])
