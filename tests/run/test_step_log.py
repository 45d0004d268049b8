"""If these fail, trackers get other steps than `logging_steps` says, or a run without its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dmpo.run.epochs import epochs
from tests.small_runs import CountOnes, lines, settings, trainer

SHORT: dict[str, Any] = {"max_steps": 5, "eval_steps": 0, "save_steps": 0, "eval_prompts": 1, "gradient_steps": 2}


def test_trackers_get_every_so_many_steps_and_the_files_all(tmp_path: Path) -> None:
    trainer(settings(tmp_path, logging_steps=2, report_to=["tensorboard"], **SHORT)).train()
    events = EventAccumulator(str(next(tmp_path.rglob("events.out.tfevents*")).parent)).Reload()
    losses = {event.step: event.value for event in events.Scalars("loss")}
    metrics = lines(tmp_path)
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5]
    assert losses == pytest.approx({step: metrics[step - 1]["loss"] for step in (2, 4, 5)}, rel=1e-6), "the last, too"
    tables = events.Tensors("completions/text_summary")
    assert [event.step for event in tables] == [2, 4, 5]
    shown = [event.tensor_proto.string_val[0].decode() for event in tables]
    rows = lines(tmp_path, "completions.jsonl")
    for text, first_step in zip(shown, (1, 3, 5), strict=True):  # the newest round's
        assert all(f"| {row['row']} |" in text for row in rows if row["step"] == first_step)


@pytest.mark.parametrize(("run_name", "told"), [(None, "folder"), ("mine", "mine")])
def test_trackers_are_told_the_name_of_the_run(
    tmp_path: Path, run_name: str | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(Accelerator, "init_trackers", lambda self, *values, **named: calls.append((values, named)))
    config = settings(tmp_path / "folder", run_name=run_name, report_to=["tensorboard"], **SHORT)
    trainer(config).step_log.start()
    ((values, named),) = calls
    assert values == ("dmpo",)
    assert named["init_kwargs"]["wandb"] == {"name": told} == named["init_kwargs"]["trackio"]
    assert named["init_kwargs"]["mlflow"] == {"run_name": told}


class Finite(CountOnes):
    def size(self, split: str) -> int:
        return {"train": 24}.get(split, 8)


def test_the_summary_says_how_many_epochs_a_run_was(tmp_path: Path) -> None:
    """Five steps are three rounds of four prompts; of 24 rows these are half."""
    assert trainer(settings(tmp_path / "endless", **SHORT)).train()["epochs"] is None
    config = settings(tmp_path / "finite", **SHORT)
    run = trainer(config, task=Finite())
    assert run.train()["epochs"] == 0.5
    assert run.callbacks.state.epoch == 0.5
    assert [epochs(config, Finite(), steps) for steps in (0, 1, 2, 3)] == [0, 1 / 6, 1 / 6, 1 / 3]
