"""If these fail, a mistake is found late, unnamed, or after something was overwritten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState

from dmpo import DMPOTrainer
from dmpo.pretrain import character_tokenizer
from dmpo.storage.checkpoints import newest_checkpoint
from tests.small_runs import CountOnes, settings, trainer
from tests.tiny_models import tiny


@pytest.fixture(autouse=True)
def _no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmpo.trainer.plot_run", lambda *arguments: None)  # takes longer than these runs


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"report_to": ["tensorbord"]}, "tensorbord"), ({"model": "no/such/model"}, "no/such/model")],
)
def test_nothing_is_written_for_a_mistake(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DMPOTrainer(settings(tmp_path / "run", **changes), tokenizer=character_tokenizer(), task=CountOnes())
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years")
    with pytest.raises(ValueError, match="not empty"):
        trainer(settings(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(ValueError, match="must be a folder, got the file"):
        trainer(settings(tmp_path / "thesis.txt"))


def test_resume_with_another_config_is_refused(tmp_path: Path) -> None:
    short: dict[str, Any] = {"max_steps": 1, "eval_prompts": 1}
    trainer(settings(tmp_path, **short)).train()
    with pytest.raises(ValueError, match=r"'alpha' was 0\.2 and is now 0\.3"):
        trainer(settings(tmp_path, resume=True, alpha=0.3, **short))


def test_a_wrong_reward_stops_before_any_work(tmp_path: Path) -> None:
    def short(completions: list[str], **columns: list[Any]) -> list[float]:
        return [0.0]

    with pytest.raises(ValueError, match="reward short returned 1 values"):
        trainer(settings(tmp_path / "run"), reward=short)
    assert not (tmp_path / "run").exists()


def test_a_reward_that_turns_nan_is_named(tmp_path: Path) -> None:
    calls = []

    def late(completions: list[str], **columns: list[Any]) -> list[float]:
        calls.append(1)
        return [float("nan") if len(calls) > 3 else 0.5] * len(completions)  # after the check and a round of two

    with pytest.raises(ValueError, match="reward late must return finite numbers, got nan"):
        trainer(settings(tmp_path, save_steps=2), reward=late).train()
    assert newest_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step-2", "what was done is kept"


def test_a_long_prompt_is_refused(tmp_path: Path) -> None:
    class Long(CountOnes):
        def row(self, split: str, index: int) -> dict[str, Any]:
            return {"prompt": "12341", "digit": 0}

    with pytest.raises(ValueError, match="prompt has 5 tokens, must be 1 to max_prompt_length 4"):
        DMPOTrainer(settings(tmp_path), model=tiny(), tokenizer=character_tokenizer(), task=Long())

    class LongTest(CountOnes):
        def row(self, split: str, index: int) -> dict[str, Any]:
            return {"prompt": "12341" if (split, index) == ("test", 5) else "1", "digit": 0}

    with pytest.raises(ValueError, match="prompt has 5 tokens"):
        DMPOTrainer(settings(tmp_path), model=tiny(), tokenizer=character_tokenizer(), task=LongTest())
    with pytest.raises(ValueError, match="the model takes 6 tokens"):
        DMPOTrainer(settings(tmp_path), model=tiny(max_length=6), tokenizer=character_tokenizer(), task=CountOnes())


@pytest.mark.parametrize("name", ["early_stop", "truncate_at_eos"])
def test_an_eos_is_needed_from_the_start(tmp_path: Path, name: str) -> None:
    config, model = settings(tmp_path / "run", **{name: True}), tiny(vocab_size=7, mask_id=1, eos_id=None)
    with pytest.raises(ValueError, match=f"{name} needs an EOS token"):
        DMPOTrainer(config, model=model, tokenizer=character_tokenizer(), task=CountOnes())
    assert not (tmp_path / "run").exists()


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    config = settings(tmp_path / "run", model=str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="absent"):
        DMPOTrainer(config, task=CountOnes())
    assert not (tmp_path / "run").exists()


def test_mixed_precision_of_a_launch_config_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # what accelerate launch hands down
    AcceleratorState._reset_state()
    try:
        with pytest.raises(ValueError, match="mixed_precision bf16, which must be no"):
            trainer(settings(tmp_path))
    finally:
        AcceleratorState._reset_state()
    assert not any(tmp_path.iterdir())
