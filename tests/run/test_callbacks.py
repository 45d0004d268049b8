"""If these fail, a callback is not called, sees the wrong state, or its decision does not hold on every rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from dmpo import DMPOTrainer
from dmpo.pretrain import character_tokenizer
from dmpo.run.callbacks import EVENTS
from dmpo.storage.checkpoints import newest_checkpoint
from tests.ranks.launch import on_ranks, results
from tests.small_runs import CountOnes, lines, settings
from tests.tiny_models import tiny

SHORT: dict[str, Any] = {"eval_prompts": 2, "eval_steps": 0, "save_steps": 0, "max_steps": 4, "num_prompts": 2}


def run(folder: Path, *callbacks: Any, **changes: Any) -> DMPOTrainer:
    model = tiny(vocab_size=7, mask_id=1, eos_id=0, max_length=32)
    objects: dict[str, Any] = {"model": model, "tokenizer": character_tokenizer(), "task": CountOnes()}
    return DMPOTrainer(settings(folder, **SHORT | changes), **objects, callbacks=callbacks)


class Records(TrainerCallback):
    """Notes every event with the step, and what its folder has at that time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls, self.values = folder, list[tuple[str, int]](), list[dict[str, Any]]()

    def note(self, event: str, args: Any, state: Any, **values: Any) -> None:
        assert args.output_dir == str(self.folder)
        self.calls.append((event, state.global_step))
        self.values.append(values)


def _noting(event: str) -> Any:
    def call(self: Records, args: Any, state: Any, control: Any, **values: Any) -> None:
        self.note(event, args, state, **values)

    return call


for _event in EVENTS:
    setattr(Records, _event, _noting(_event))


def test_every_event_comes_at_its_step(tmp_path: Path) -> None:
    class Saves(Records):
        def on_save(self, args: Any, state: Any, control: Any, **values: Any) -> None:
            newest = newest_checkpoint(self.folder / "checkpoints")
            assert newest is not None, "the checkpoint is on disk"
            assert newest.name == f"step-{state.global_step}"
            self.note("on_save", args, state, **values)

    records = Saves(tmp_path)
    trainer = run(tmp_path, records, eval_steps=3, save_steps=2, logging_steps=2)
    trainer.train()
    step = "on_step_end"
    assert records.calls == [
        ("on_train_begin", 0),
        (step, 1),
        *((step, 2), ("on_round_end", 2), ("on_log", 2), ("on_save", 2)),
        *((step, 3), ("on_evaluate", 3)),
        *((step, 4), ("on_round_end", 4), ("on_evaluate", 4), ("on_log", 4), ("on_save", 4)),
        ("on_train_end", 4),
    ]
    metrics, by_call = lines(tmp_path), dict(zip(records.calls, records.values, strict=True))
    assert by_call["on_log", 2]["logs"] == metrics[1]
    assert by_call["on_evaluate", 3]["metrics"] == {
        name: metrics[2][name] for name in ("sampled_accuracy", "greedy_accuracy")
    }
    assert by_call["on_train_begin", 0]["model"] is trainer.policy
    assert trainer.callbacks.state.log_history == [metrics[1], metrics[3]]


class Decides(TrainerCallback):
    """Sets or clears decisions at a step."""

    def __init__(self, step: int, event: str = "on_step_end", **decisions: bool) -> None:
        self.step, self.decisions = step, decisions
        setattr(self, event, self.decide)

    def decide(self, args: Any, state: Any, control: Any, **values: Any) -> None:
        if state.global_step == self.step:
            for name, value in self.decisions.items():
                setattr(control, name, value)


@pytest.mark.parametrize("event", ["on_step_end", "on_log", "on_round_end"])
def test_a_callback_stops_the_run_which_can_go_on(tmp_path: Path, event: str) -> None:
    summary = run(tmp_path, Decides(2, event, should_training_stop=True)).train()
    assert (summary["steps"], len(lines(tmp_path))) == (2, 2)
    assert "greedy_accuracy_after" in summary
    assert run(tmp_path, resume=True).train()["steps"] == 4
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_a_callback_saves_and_evaluates_at_a_step_of_its_own(tmp_path: Path) -> None:
    run(tmp_path, Decides(3, should_save=True, should_evaluate=True)).train()
    assert ["greedy_accuracy" in line for line in lines(tmp_path)] == [False, False, True, False]
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-3", "step-4"}


def test_a_callback_may_clear_what_the_config_asks_for(tmp_path: Path) -> None:
    cleared: dict[str, Any] = {"should_save": False, "should_evaluate": False}
    run(tmp_path, Decides(2, **cleared), save_steps=2, eval_steps=2).train()
    assert ["greedy_accuracy" in line for line in lines(tmp_path)] == [False, False, False, True]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-4"]


@pytest.mark.parametrize("event", ["on_step_end", "on_log"])
def test_a_callback_that_raises_ends_the_run_after_it_is_saved(tmp_path: Path, event: str) -> None:
    class Fails(TrainerCallback):
        pass

    def fail(self: Any, args: Any, state: Any, control: Any, **values: Any) -> None:
        if state.global_step == 3:
            raise RuntimeError("of the callback")

    setattr(Fails, event, fail)
    with pytest.raises(RuntimeError, match="of the callback"):
        run(tmp_path, Fails).train()
    newest = newest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    assert newest.name == "step-3"
    assert run(tmp_path, resume=True).train()["steps"] == 4
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_what_is_no_callback_is_refused_and_what_is_not_called_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TypeError, match=r"callbacks must extend transformers\.TrainerCallback, got dict"):
        run(tmp_path, {})
    assert not any(tmp_path.iterdir())

    class Substep(TrainerCallback):
        def on_substep_end(self, *values: Any, **named: Any) -> None:
            raise AssertionError

    run(tmp_path, Substep)
    assert "callback Substep: a run does not call on_substep_end" in caplog.text


def stop_on_one_rank(folder: Path) -> tuple[int, int]:
    """Rank 1 alone wants to stop."""
    import dmpo.trainer

    dmpo.trainer.plot_run = lambda *arguments: None

    class Stops(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **values: Any) -> None:
            control.should_training_stop = state.global_step == 2 and not state.is_world_process_zero

    trainer = run(folder, Stops())
    summary = trainer.train()
    return summary["steps"], trainer.step


def fail_on_one_rank(folder: Path) -> None:
    import dmpo.trainer

    dmpo.trainer.plot_run = lambda *arguments: None

    class Fails(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **values: Any) -> None:
            if state.global_step == 2 and not state.is_world_process_zero:
                raise RuntimeError("of the callback")

    run(folder, Fails()).train()


def test_all_ranks_stop_where_one_wants_to_or_fails(tmp_path: Path) -> None:
    assert results(on_ranks(2, stop_on_one_rank, tmp_path / "stops", folder=tmp_path / "1")) == [(2, 2)] * 2
    ranks = on_ranks(2, fail_on_one_rank, tmp_path / "fails", folder=tmp_path / "2")
    assert "rank 1 failed: RuntimeError: of the callback" in str(ranks[0].error)
    assert "RuntimeError: of the callback" in str(ranks[1].error)
    assert [path.name for path in (tmp_path / "fails" / "checkpoints").iterdir()] == ["step-2"]
