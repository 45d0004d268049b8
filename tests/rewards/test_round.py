"""If these fail, rewards of a round go to other completions, split a group, or a wrong reward passes."""

from __future__ import annotations

import logging
import signal
import threading
from functools import partial
from typing import Any

import pytest

from dmpo.rewards import RewardError, RewardPool
from dmpo.rewards.round import RoundScoring

WAIT = 30.0  # seconds; only a failing test waits so long
GROUPS = [0, 0, 0, 1, 1, 1, 2, 2]
TEXTS = [f"{row}" for row in range(8)]
BATCHES = [[3, 4, 5, 6], [7, 0], [1, 2]]  # as batches of like length come
COLUMNS = {"number": [10 * row for row in range(8)]}


def texts_of(rows: list[int]) -> list[str]:
    return [TEXTS[row] for row in rows]


def scored(pool: RewardPool) -> RoundScoring:
    with RoundScoring(pool, GROUPS, COLUMNS) as scoring:
        for rows in BATCHES:
            scoring.add(rows, partial(texts_of, rows))
    return scoring


def test_groups_are_whole_and_scores_have_the_order_of_the_rows() -> None:
    calls: list[tuple[list[str], list[int], bool]] = []

    def reward(completions: list[str], *, number: list[int]) -> list[float]:
        calls.append((completions, number, threading.current_thread() is threading.main_thread()))
        return [float(text) + value for text, value in zip(completions, number, strict=True)]

    assert scored(RewardPool(reward)).scores().values == [11.0 * row for row in range(8)]
    of_rows = [[3, 4, 5], [7, 6], [0, 1, 2]]
    assert [sorted(map(int, completions)) for completions, *_ in calls] == [sorted(rows) for rows in of_rows]
    assert all([10 * int(text) for text in completions] == number for completions, number, _ in calls)
    assert not any(in_main for *_, in_main in calls)


def test_failures_of_a_round_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    def odd(completions: list[str], **columns: list[Any]) -> list[float]:
        if {"1", "6"} & set(completions):
            raise ZeroDivisionError("never")
        return [1.0] * len(completions)

    pool = RewardPool(odd)
    with caplog.at_level(logging.WARNING, logger="dmpo"):
        scores = scored(pool).scores()
    assert scores.values == [1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0]
    assert [failure.row for failure in scores.failures] == [1, 6]
    assert pool.failures == {"exception": 2}
    assert [message.partition(",")[0] for message in caplog.messages] == ["reward odd failed on 2 of 8 completions"]


def test_a_function_that_needs_the_main_thread_gets_it() -> None:
    """Python sets alarms in the main thread alone, and people guard slow comparisons with alarms."""

    def with_alarm(completions: list[str], **columns: list[Any]) -> list[float]:
        signal.signal(signal.SIGALRM, signal.getsignal(signal.SIGALRM))
        return [float(text) for text in completions]

    pool = RewardPool(with_alarm)
    assert scored(pool).scores().values == [float(row) for row in range(8)]
    assert not pool.failures


def test_a_wrong_reward_ends_the_round_at_its_end() -> None:
    calls = []

    def wrong(completions: list[str], **columns: list[Any]) -> list[float]:
        calls.append(completions)
        return [float("nan")] * len(completions) if len(calls) == 1 else [0.0] * len(completions)

    scoring = scored(RewardPool(wrong))
    with pytest.raises(RewardError, match="reward wrong must return finite numbers, got nan"):
        scoring.scores()
    assert len(calls) == 1, "the later calls are of no use"


def test_a_round_that_fails_elsewhere_leaves_out_what_has_not_begun() -> None:
    calls, began, go = [], threading.Event(), threading.Event()

    def slow(completions: list[str], **columns: list[Any]) -> list[float]:
        calls.append(completions)
        began.set()
        assert go.wait(WAIT)
        return [0.0] * len(completions)

    def fail(pool: RewardPool) -> None:
        with RoundScoring(pool, GROUPS, COLUMNS) as scoring:
            for rows in ([0, 1, 2], [3, 4, 5]):
                scoring.add(rows, partial(texts_of, rows))
            assert began.wait(WAIT)
            raise MemoryError

    pool = RewardPool(slow)
    with pytest.raises(MemoryError):
        fail(pool)
    go.set()
    pool.thread.submit(lambda: None).result(WAIT)
    assert calls == [TEXTS[:3]]


def test_an_exit_in_the_reward_is_an_exit_of_the_run() -> None:
    def leaves(completions: list[str], **columns: list[Any]) -> list[float]:
        raise SystemExit(4)

    with pytest.raises(SystemExit):
        scored(RewardPool(leaves)).scores()
