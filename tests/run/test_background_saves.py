"""If these fail, a checkpoint that is written while training goes on has other weights, or its failure is not seen."""

from __future__ import annotations

import json
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import dmpo.trainer
from dmpo import DMPOTrainer
from dmpo.distributed.sharding import full_model_state, full_optimizer_state
from dmpo.run import checkpoint, model_copy, saving
from dmpo.run.checkpoint import CheckpointWrite
from dmpo.storage.checkpoints import newest_checkpoint
from tests.run.killed_run import small_trainer
from tests.small_runs import lines, names

WAIT = 30.0  # seconds; only a failing test waits so long


def before_each_write(monkeypatch: pytest.MonkeyPatch, action: Callable[[], Any]) -> None:
    real = CheckpointWrite.write

    def later(self: CheckpointWrite) -> bool:
        action()
        return real(self)

    monkeypatch.setattr(CheckpointWrite, "write", later)


def move(run: DMPOTrainer) -> None:
    """A step of the optimiser with the gradient 1."""
    for parameter in run.trainable:
        parameter.grad = torch.ones_like(parameter)
    run.optimizer.step()


def save_and_fail(run: DMPOTrainer, error: BaseException) -> None:
    with run.saver:
        run.saver.begin(1, {})
        raise error


@pytest.mark.parametrize("lora_r", [0, 2])
def test_a_checkpoint_has_what_the_run_had_when_it_was_asked_for(
    tmp_path: Path, lora_r: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    copies: list[weakref.ref[Tensor]] = []

    def recorded(*arguments: Any) -> dict[str, Tensor]:
        state = full_model_state(*arguments)
        copies.extend(weakref.ref(value) for value in state.values())
        return state

    before_each_write(monkeypatch, lambda: go.wait(WAIT))
    for module in (checkpoint, model_copy):
        monkeypatch.setattr(module, "full_model_state", recorded)
    run = small_trainer(tmp_path, lora_r=lora_r)
    move(run)
    weights, moments = full_model_state(run.model), full_optimizer_state(run.model, run.optimizer)
    reference = {name: value.clone() for name, value in run.reference.state().items()}
    state: dict[str, Any] = {"list": [1]}
    run.saver.begin(1, state)
    assert names(tmp_path / "checkpoints") == [".partial-step-1"]
    assert run.saver.saved == 0
    move(run)
    run.reference.refresh()
    state["list"].append(2)
    assert not any(torch.equal(value, weights[name]) for name, value in full_model_state(run.model).items())
    go.set()
    run.saver.finish()
    assert run.saver.saved == 1
    folder = tmp_path / "checkpoints" / "step-1"
    for name, value in checkpoint._read_weights(folder, run.policy).items():
        assert torch.equal(value, weights.pop(name)), name
    assert not weights
    for file, saved in (("optimizer", moments), ("reference", reference)):
        loaded = load_file(folder / f"{file}.safetensors")
        assert loaded.keys() == saved.keys()
        assert all(torch.equal(loaded[name], saved[name]) for name in saved)
    assert json.loads((folder / "trainer.json").read_text())["list"] == [1]
    assert copies
    assert not any(copy() is not None for copy in copies), "the host has no copy after the write"


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write of step 2 waits for step 3 to begin; until then a kill leaves step 1."""
    real, begun = dmpo.trainer.accumulate_gradient, [threading.Event() for _ in range(3)]
    seen: list[tuple[bool, str | None]] = []

    def gradient(*arguments: Any) -> Any:
        begun[arguments[-1]].set()
        return real(*arguments)

    def wait_for_a_step() -> None:
        if len(seen) < 2:
            went_on = begun[len(seen) + 1].wait(WAIT)
            newest = newest_checkpoint(tmp_path / "checkpoints")
            seen.append((went_on, newest.name if newest else None))

    monkeypatch.setattr(dmpo.trainer, "accumulate_gradient", gradient)
    before_each_write(monkeypatch, wait_for_a_step)
    small_trainer(tmp_path, max_steps=3, save_steps=1, save_total_limit=1).train()
    assert seen == [(True, None), (True, "step-1")]
    assert names(tmp_path / "checkpoints") == ["step-3"]


def test_a_bug_in_a_write_is_raised_at_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(checkpoint, "save_file", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        small_trainer(tmp_path, max_steps=3, save_steps=1).train()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_a_run_that_fails_leaves_no_write_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before_each_write(monkeypatch, lambda: time.sleep(0.1))
    run = small_trainer(tmp_path)
    with pytest.raises(ZeroDivisionError):
        save_and_fail(run, ZeroDivisionError())
    assert names(tmp_path / "checkpoints") == ["step-1"]


def test_an_interrupted_process_does_not_wait_for_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    before_each_write(monkeypatch, lambda: go.wait(WAIT))
    monkeypatch.setattr(saving, "GRACE", 0.0)
    run = small_trainer(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        save_and_fail(run, KeyboardInterrupt())
    go.set()
    assert run.saver._result is not None
    assert run.saver._result.result(WAIT) is False
    assert names(tmp_path / "checkpoints") == [".partial-step-1"], "which the next run deletes"
