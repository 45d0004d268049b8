"""If these fail, a judge that is slow, away or talks nonsense ends a run, floods its server, or fails unseen."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dmpo.rewards import RewardError, RewardPool, judge, score
from dmpo.rewards.form import form_of
from dmpo.rewards.judging import JudgeLimits
from dmpo.rewards.round import RoundScoring
from tests.rewards.judge_server import JudgeServer, ask, impatient, rated, rated_together
from tests.small_runs import lines, settings, trainer

HERE = "tests.rewards.judge_server"


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with JudgeServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


def test_the_calls_in_flight_are_bounded(server: JudgeServer) -> None:
    server.hold = 3
    texts = [f"{'1' * n}0" for n in range(12)]
    scores = RewardPool(partial(rated, port=server.port)).score(texts, {"digit": [0] * 12})
    assert scores.values == [float(n) for n in range(12)]
    assert server.most == 3
    assert set(server.asked.values()) == {1}


def test_calls_are_repeated_and_nonsense_is_not(server: JudgeServer, caplog: pytest.LogCaptureFixture) -> None:
    pool = RewardPool(partial(rated, port=server.port))
    with caplog.at_level(logging.WARNING, logger="dmpo"):
        scores = pool.score(["flaky", "11", "down", "nonsense"], {"digit": [0] * 4})
    assert scores.values == [0.0, 2.0, 0.0, 0.0]
    assert server.asked == {"flaky": 3, "11": 1, "down": 3, "nonsense": 1}
    down, nonsense = scores.failures
    assert (down.row, down.kind) == (2, "exception")
    assert down.message.startswith("ConnectionError: HTTP/1.0 503")
    assert down.message.endswith("(the last of 3 tries)")
    assert nonsense == (3, "exception", "ValueError: could not convert string to float: 'very nice!'", "rated")
    assert [message.partition(",")[0] for message in caplog.messages] == ["reward rated failed on 2 of 4 completions"]
    assert scores.details(3) == {"failure": "ValueError: could not convert string to float: 'very nice!'"}
    assert scores.details(1) == {}


def test_a_call_that_takes_too_long_is_cancelled(server: JudgeServer) -> None:
    scores = RewardPool(partial(impatient, port=server.port)).score(["slow"], {})
    assert scores.failures == [(0, "timeout", "no answer within 0.1 s (the last of 2 tries)", "impatient")]


def test_a_judge_of_many_completions_gets_one_at_a_time_where_that_fails(server: JudgeServer) -> None:
    scores = RewardPool(partial(rated_together, port=server.port)).score(["1", "nonsense", "11"], {})
    assert scores.values == [1.0, 0.0, 2.0]
    assert [failure.row for failure in scores.failures] == [1]
    assert server.asked == {"1": 2, "nonsense": 2, "11": 2}


@pytest.mark.parametrize("value", ["good", None, float("nan"), [1.0, 2.0]])
def test_a_value_that_is_no_number_costs_its_completion(value: Any) -> None:
    async def odd(completion: str) -> Any:
        return value if completion == "odd" else 1

    pool = RewardPool(odd)
    scores = pool.score(["a", "odd"], {})
    assert scores.values == [1.0, 0.0]
    assert "reward odd must return finite numbers, got" in scores.failures[0].message
    assert score(odd, ["a"], {}) == [1.0]
    with pytest.raises(RewardError, match="reward odd failed: reward odd must return finite numbers"):
        score(odd, ["odd"], {})


def test_a_judge_by_name_has_one_process_and_its_own_limits(server: JudgeServer) -> None:
    server.hold = 3
    rewards = [{"function": f"{HERE}:rated", "options": {"port": server.port}}]
    pool = RewardPool(rewards, workers=4, timeout=0.01)
    assert pool.score(["1"] * 9, {"digit": [0] * 9}).values == [1.0] * 9
    assert server.most == 3
    pool.close()


def test_a_judge_works_where_an_event_loop_runs() -> None:
    """As in a notebook."""

    async def one(completion: str) -> float:
        return 1.0

    async def cell() -> list[float]:
        return RewardPool(one).score(["a", "b"], {}).values

    assert asyncio.run(cell()) == [1.0, 1.0]


def test_a_client_may_be_kept_between_calls() -> None:
    """Clients of HTTP libraries belong to the event loop in which they were made."""
    loops = []

    async def keeps(completion: str) -> float:
        loops.append(asyncio.get_running_loop())
        return 1.0

    pool = RewardPool(keeps)
    pool.score(["a"], {})
    with RoundScoring(pool, [0], {}) as scoring:
        scoring.add([0], lambda: ["a"])
    assert scoring.scores().values == [1.0]
    assert loops[0] is loops[1]
    assert loops[0].is_running()


def test_an_exit_in_a_judge_is_an_exit_of_the_run() -> None:
    async def leaves(completion: str) -> float:
        raise SystemExit(4)

    with pytest.raises(SystemExit):
        RewardPool(leaves).score(["a"], {})
    assert RewardPool(form_of_one).score(["a"], {}).values == [1.0], "other judges go on"


async def form_of_one(completion: str) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"in_flight": 0}, "in_flight of a judge must be ≥ 1, got 0"),
        ({"timeout": 0.0}, "timeout of a judge must be > 0 seconds"),
        ({"retries": -1}, "retries of a judge must be ≥ 0"),
        ({"backoff": -1.0}, "backoff of a judge must be ≥ 0 seconds"),
    ],
)
def test_limits_that_cannot_hold_are_refused(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judge(**limits)
    with pytest.raises(TypeError, match=r"judge takes an async function, got len"):
        judge()(len)


def test_the_longest_time_of_a_judge() -> None:
    limits = JudgeLimits(in_flight=2, timeout=10.0, retries=2, backoff=20.0)
    assert [limits.pause(retry) for retry in (1, 2)] == [20.0, 30.0]
    assert limits.seconds(form_of(form_of_one), 5) == 3 * (3 * 10 + 20 + 30)


def test_a_run_with_a_judge_that_fails(server: JudgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmpo.trainer.plot_run", lambda *arguments: None)

    @judge(retries=0)
    async def picky(completion: str, digit: int) -> float:
        return await ask(server.port, "nonsense" if "2" in completion else completion)

    trainer(settings(tmp_path, max_steps=2, eval_steps=0, log_completions=16), reward=picky).train()
    (first, _), completions = lines(tmp_path), lines(tmp_path, "completions.jsonl")
    failed = [line for line in completions if "2" in line["completion"]]
    assert first["reward_failures"] == len(failed) > 0
    assert all(line["reward"] == 0 for line in failed)
    assert {line["failure"] for line in failed} == {"ValueError: could not convert string to float: 'very nice!'"}
    assert all("failure" not in line for line in completions if line not in failed)
