"""If these fail, a run continues as another run, or no message says how to continue it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dmpo import DMPOConfig, DMPOTrainer
from dmpo.cli import main
from dmpo.config.files import load_config
from dmpo.pretrain import character_tokenizer
from tests.small_runs import CountOnes, settings, trainer
from tests.tiny_models import tiny

SHORT: dict[str, Any] = {"max_steps": 2, "eval_prompts": 1, "eval_steps": 0, "save_steps": 1}


@pytest.fixture(autouse=True)
def _no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmpo.trainer.plot_run", lambda *arguments: None)


def half(completions: list[str], **columns: list[Any]) -> list[float]:
    return [0.5] * len(completions)


def test_the_command_line_does_not_replace_a_script_s_reward(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["gradient_steps=1", "num_prompts=2", "num_generations=2", "eval_prompts=4", "eval_steps=0"]
    config = load_config(DMPOConfig, "sudoku-tiny", [f"output_dir={tmp_path / 'run'}", "max_steps=1", *quick])
    DMPOTrainer(config, reward=half).train()
    assert main(["train", str(tmp_path / "run" / "config.yaml"), "resume=true", "max_steps=2"]) == 2
    assert "the reward of this run was the object tests.run.test_resumption.half" in capsys.readouterr().err


def test_other_objects_are_refused_and_the_same_continue(tmp_path: Path) -> None:
    trainer(settings(tmp_path, **SHORT), reward=half).train()
    more = settings(tmp_path, **SHORT | {"max_steps": 3, "resume": True})
    with pytest.raises(ValueError, match=r"the reward of this run was the object .*half, which a script gave"):
        trainer(more)

    class Other(CountOnes):
        pass

    with pytest.raises(ValueError, match=r"the task of this run was the object .*CountOnes"):
        DMPOTrainer(more, model=tiny(), tokenizer=character_tokenizer(), task=Other(), reward=half)
    assert trainer(more, reward=half).train()["steps"] == 3


def test_a_reward_that_the_run_did_not_have(tmp_path: Path) -> None:
    trainer(settings(tmp_path, **SHORT)).train()
    with pytest.raises(ValueError, match="leave reward out of DMPOTrainer"):
        trainer(settings(tmp_path, **SHORT | {"resume": True}), reward=half)


def test_fewer_steps_and_another_rate_say_what_to_do(tmp_path: Path) -> None:
    trainer(settings(tmp_path, **SHORT)).train()
    with pytest.raises(
        ValueError, match=r"max_steps is 1, but the run in .* has a checkpoint of step 2; give a larger"
    ):
        trainer(settings(tmp_path, **SHORT | {"max_steps": 1, "resume": True}))
    with pytest.raises(ValueError, match=r"'learning_rate' was 0\.001 and is now 0\.1; .* dmpo merge .* model=FOLDER"):
        trainer(settings(tmp_path, **SHORT | {"learning_rate": 0.1, "resume": True}))
