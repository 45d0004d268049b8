"""If these fail, a run that leaves groups out stops, steps without a gradient, or is another run once resumed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dmpo.models import load_model
from dmpo.planning.plan import plan, verdict
from dmpo.run.plots import plot_run
from dmpo.run.skipping import SkippedSteps
from tests.small_runs import lines, settings, trainer

BRIEF: dict[str, Any] = {"eval_steps": 0, "save_steps": 0, "eval_prompts": 1, "skip_equal_rewards": True}


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmpo.trainer.plot_run", lambda *arguments: None)


def rare(completions: list[str], **columns: Any) -> list[float]:
    return [float(text[:2] == "12") for text in completions]


def test_resume_equals_an_undisturbed_run(tmp_path: Path) -> None:
    """Stopped amid a round, with prompts drawn anew and older rounds in the buffer."""
    options: dict[str, Any] = {**BRIEF, "resample_prompts": 1, "buffer_rounds": 2, "max_steps": 6, "lora_r": 2}
    options |= {"log_completions": 16}
    trainer(settings(tmp_path / "whole", **options), reward=rare).train()
    trainer(settings(tmp_path / "stopped", **{**options, "max_steps": 3}), reward=rare).train()
    trainer(settings(tmp_path / "stopped", resume=True, **options), reward=rare).train()
    metrics = lines(tmp_path / "whole")
    assert metrics == lines(tmp_path / "stopped")
    assert lines(tmp_path / "whole", "completions.jsonl") == lines(tmp_path / "stopped", "completions.jsonl")
    name = "checkpoints/step-6/adapter/adapter_model.safetensors"
    a, b = (load_file(tmp_path / run / name) for run in ("whole", "stopped"))
    assert all(torch.equal(a[key], b[key]) for key in a)
    rows = [line["row"] for line in lines(tmp_path / "whole", "completions.jsonl")]
    assert len(rows) == len(set(rows)) == 3 * 16
    assert {row // 32 for row in rows} == {0, 1, 2}, "each round has two draws of 16 completions"
    assert any(row // 16 % 2 for row in rows)
    assert any(line["prompts_resampled"] for line in metrics)
    assert any(0 < line["left_out_equal"] < 4 for line in metrics)


def test_steps_without_anything_to_learn_change_nothing(tmp_path: Path) -> None:
    """The second of three rounds has equal rewards; adam would step, with what it remembers, and decay weights."""
    weights: list[torch.Tensor] = []

    def reward(completions: list[str], **columns: Any) -> list[float]:
        if len(completions) == 16:  # a round
            weights.append(torch.cat([p.detach().flatten() for p in run.trainable]))
        return [text.count("1") / 4 * (len(weights) != 2) for text in completions]

    options: dict[str, Any] = {**BRIEF, "rollout_batch_size": 16, "weight_decay": 0.5, "max_skipped_steps": 1}
    run = trainer(settings(tmp_path, **options), reward=reward)
    summary = run.train()
    metrics = lines(tmp_path)
    assert [line["idle"] for line in metrics] == [0, 0, 1, 1, 0, 0]
    assert [line["left_out_equal"] == 4 for line in metrics] == [False, False, True, True, False, False]
    assert [(line["loss"], line["grad_norm"], line["skipped"]) for line in metrics[2:4]] == [(0.0, 0.0, 0)] * 2
    assert metrics[2]["ess"] is None
    assert (summary["idle_steps"], summary["skipped_steps"], summary["steps_taken"]) == (2, 0, 4)
    first, second, third = weights
    assert not torch.equal(first, second)
    assert torch.equal(second, third)


def test_a_run_that_never_learns_ends_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def constant(completions: list[str], **columns: Any) -> list[float]:
        return [1.0] * len(completions)

    config = settings(tmp_path, **BRIEF, resample_prompts=1, max_steps=2, max_skipped_steps=1)
    summary = trainer(config, reward=constant).train()
    assert (summary["idle_steps"], summary["steps_taken"]) == (2, 0)
    assert [line["prompts_resampled"] for line in lines(tmp_path)] == [4, 4]
    printed = " ".join(capsys.readouterr().out.split())
    assert "No step was taken: 2 of 2 steps had nothing to learn from; the rewards of every group agreed" in printed
    assert "all rounds 16, and resampling up to 16 more" in printed
    plot_run(lines(tmp_path), lines(tmp_path, "timings.jsonl"), summary, "", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_idle_steps_do_not_hide_a_row_of_bad_ones() -> None:
    skipped = SkippedSteps(2)
    outcomes = [skipped.skip(loss, 1.0, idle=loss == 0) for loss in (math.nan, 0.0, math.nan)]
    assert outcomes == [True, False, True]
    assert skipped.too_many
    again = SkippedSteps(2)
    again.load_state(skipped.state())
    assert (again.total, again.in_row, again.idle) == (2, 2, 1)
    again.load_state({"total": 5, "in_row": 0})  # of a checkpoint without idle steps
    assert (again.total, again.idle) == (5, 0)


def test_the_plan_says_what_resampling_may_cost(tmp_path: Path) -> None:
    model_config = load_model("sudoku-tiny").config
    texts = []
    for most in (0, 3):
        config = settings(tmp_path, skip_equal_rewards=True, resample_prompts=most)
        texts.append(verdict(plan(config, model_config, device="cpu"), config))
    assert texts[1] == f"{texts[0]}; with resample_prompts a round decodes up to 4 times its completions"
