"""If these fail, a run that gets a signal to stop loses steps, or leaves one rank running."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from dmpo.run.interruption import Interrupted, SignalWatch
from tests.run.killed_run import small_trainer, start_ranks
from tests.small_runs import lines, names


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_a_signal_saves_then_leaves(tmp_path: Path, number: signal.Signals, status: int) -> None:
    calls = []

    def reward(completions: list[str], **columns: Any) -> list[float]:
        calls.append(1)
        if len(calls) == 3:  # the first is the check before anything begins
            os.kill(os.getpid(), number)
        return [text.count("1") / 4 for text in completions]

    handler = signal.getsignal(number)
    with pytest.raises(Interrupted) as left:
        small_trainer(tmp_path / "run", reward, save_steps=0).train()
    assert left.value.code == status
    assert signal.getsignal(number) is handler
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2, 3]
    assert names(tmp_path / "run" / "checkpoints") == ["step-3"]
    if number == signal.SIGTERM:
        small_trainer(tmp_path / "run", reward, save_steps=0).train()
        small_trainer(tmp_path / "whole", save_steps=0).train()
        assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_a_second_interrupt_is_obeyed_at_once() -> None:
    with SignalWatch(prints=False) as watch:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert watch.recorded == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def reward_that_ends_rank_1(completions: list[str], **columns: Any) -> list[float]:
    if os.environ.get("RANK") == "1" and len(completions) > 2:
        os.kill(os.getpid(), signal.SIGTERM)
    return [text.count("1") / 4 for text in completions]


def test_a_signal_to_one_rank_stops_all_and_another_number_goes_on(tmp_path: Path) -> None:
    ranks = start_ranks(tmp_path, 2, reward=reward_that_ends_rank_1, save_steps=0)
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [143, 143]
    assert names(tmp_path / "checkpoints") == ["step-1"]
    small_trainer(tmp_path, reward_that_ends_rank_1, max_steps=3, save_steps=0).train()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
