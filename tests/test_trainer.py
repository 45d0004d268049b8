"""If these fail, a run does not learn, does not repeat, or loses work."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dmpo import DMPOTrainer, load_model
from dmpo.pretrain import character_tokenizer
from dmpo.storage.checkpoints import newest_checkpoint
from tests.small_runs import CountOnes, lines, settings, trainer
from tests.tiny_models import tiny

pytestmark = pytest.mark.usefixtures("device", "unwritten_is_nan")


@pytest.fixture(autouse=True)
def _few_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plot takes longer than these runs; one test looks at it."""
    if request.function is not test_what_a_run_leaves:
        monkeypatch.setattr("dmpo.trainer.plot_run", lambda *arguments: None)


def test_it_learns(tmp_path: Path) -> None:
    whole: dict[str, Any] = {"micro_batch_size": 0, "rollout_batch_size": 64, "eval_steps": 0, "save_steps": 0}
    config = settings(tmp_path, max_steps=40, num_prompts=8, num_generations=8, learning_rate=3e-3, **whole)
    summary = trainer(config).train()
    rewards = [line["reward"] for line in lines(tmp_path)]
    # A mean of 64 completions of four tokens has a standard error of at most 0.5 / 256^0.5 = 0.03.
    assert sum(rewards[-6:]) / 6 > rewards[0] + 0.2
    assert summary["sampled_accuracy_after"] > summary["sampled_accuracy_before"]


def test_what_a_run_leaves(tmp_path: Path) -> None:
    summary = trainer(settings(tmp_path / "run")).train()
    folder = tmp_path / "run"
    metrics = lines(folder)
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5, 6]
    assert all(next(iter(line)) == "step" for line in metrics)
    assert [line["round"] for line in metrics] == [0, 0, 1, 1, 2, 2]
    assert metrics[0]["log_ratio"] == 0, "the policy starts as the reference"
    assert metrics[-1]["log_ratio"] != 0
    assert ["sampled_accuracy" in line for line in metrics] == [False, False, True, False, False, True]
    assert json.loads((folder / "summary.json").read_text()) == summary
    evaluations = [(row["step"], row["split"]) for row in lines(folder, "held_out.jsonl") if row["index"] == 0]
    assert evaluations == [(0, "test"), (3, "validation"), (6, "validation"), (6, "test")]
    wanted = {f"{k}_accuracy_{when}" for k in ("sampled", "greedy") for when in ("before", "after")}
    assert wanted | {"seconds", "seed"} <= summary.keys()
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"step-3", "step-6"}
    assert (folder / "training.png").stat().st_size > 10_000
    phases = {key for line in lines(folder, "timings.jsonl") for key in line}
    assert {"rollout", "reward", "score", "update", "evaluate", "checkpoint"} <= phases
    assert load_model(folder / "checkpoints" / "step-6" / "model").config.mask_token_id == 1


def test_same_seed_same_metrics(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        trainer(settings(tmp_path / name, seed=seed)).train()
    a, b, c = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize("lora_r", [0, 2])
@pytest.mark.parametrize("stop", [2, 3])
def test_resume_equals_an_undisturbed_run(tmp_path: Path, lora_r: int, stop: int) -> None:
    """Stopped at the end of a round, and in the middle of one."""
    options: dict[str, Any] = {"lora_r": lora_r, "save_steps": 1}
    whole = trainer(settings(tmp_path / "whole", **options)).train()
    trainer(settings(tmp_path / "parts", max_steps=stop, eval_steps=0, **options)).train()
    parts = trainer(settings(tmp_path / "parts", resume=True, **options)).train()
    whole_lines, parts_lines = lines(tmp_path / "whole"), lines(tmp_path / "parts")
    for line in whole_lines[:stop]:  # the first part did not evaluate
        line.pop("sampled_accuracy", None), line.pop("greedy_accuracy", None)
    assert parts_lines == whole_lines
    whole_rows, parts_rows = (lines(tmp_path / run, "held_out.jsonl") for run in ("whole", "parts"))
    assert parts_rows == [row for row in whole_rows if row["step"] == 0 or row["step"] > stop], (
        "the end is written once"
    )
    for key in ("sampled_accuracy_before", "greedy_accuracy_before", "sampled_accuracy_after", "greedy_accuracy_after"):
        assert parts[key] == whole[key]
    name = "adapter/adapter_model.safetensors" if lora_r else "model/model.safetensors"
    a, b = (load_file(tmp_path / run / "checkpoints" / "step-6" / name) for run in ("whole", "parts"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_lines_after_the_checkpoint_are_rewritten(tmp_path: Path) -> None:
    """A run killed after step 3 was saved and step 4 was logged."""
    config = settings(tmp_path / "run", max_steps=3)
    trainer(config).train()
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss": 99}\n{"step": 5, "lo')
    trainer(settings(tmp_path / "run", resume=True)).train()
    metrics = lines(tmp_path / "run")
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5, 6]
    assert metrics[3]["loss"] != 99


def test_damaged_checkpoint_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    short: dict[str, Any] = {"max_steps": 2, "save_steps": 1, "eval_prompts": 1}
    trainer(settings(tmp_path, **short)).train()
    root = tmp_path / "checkpoints"
    weights = root / "step-2" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert newest_checkpoint(root) == root / "step-1"
    assert "step-2" in caplog.text
    assert "model.safetensors" in caplog.text
    (root / "step-1" / "manifest.json").unlink()
    with pytest.raises(ValueError, match="no whole checkpoint"):
        trainer(settings(tmp_path, resume=True, **short))


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    trainer(settings(tmp_path, max_steps=4, save_steps=1, save_total_limit=2, eval_prompts=1)).train()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-3", "step-4"]


def test_a_damaged_newer_checkpoint_does_not_displace_a_whole_one(tmp_path: Path) -> None:
    trainer(settings(tmp_path, save_steps=2, save_total_limit=3)).train()
    (tmp_path / "checkpoints" / "step-6" / "trainer.json").write_text("{")
    trainer(settings(tmp_path, save_steps=1, save_total_limit=1, max_steps=5, resume=True)).train()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-5"]
    assert newest_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step-5"


def test_rows_need_not_be_json(tmp_path: Path) -> None:
    class Odd(CountOnes):
        def row(self, split: str, index: int) -> dict[str, Any]:
            return super().row(split, index) | {"odd": Fraction(1, 3)}

    model = tiny(vocab_size=7, mask_id=1, eos_id=0, max_length=32)
    config = settings(tmp_path, max_steps=1, eval_prompts=1)
    DMPOTrainer(config, model=model, tokenizer=character_tokenizer(), task=Odd()).train()
    assert newest_checkpoint(tmp_path / "checkpoints") is not None
