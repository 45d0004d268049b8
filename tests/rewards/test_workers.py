"""If these fail, one completion or one faulty reward stops a run, or the others pay for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dmpo.rewards.call import RewardError
from dmpo.rewards.outcomes import Scores
from dmpo.rewards.worker_pool import WorkerPool

HERE = "tests.rewards.misbehaving"


@pytest.fixture(scope="module")
def harmful() -> Iterator[WorkerPool]:
    pool = WorkerPool(f"{HERE}:harmful", workers=2, wall_limit=1.5, cpu_limit=0.3, memory_limit=8 << 30)
    yield pool
    pool.close()


def kinds(scores: Scores) -> list[tuple[int, str]]:
    return [(failure.row, failure.kind) for failure in scores.failures]


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("raise", "exception", "KeyError: 'no such thing'"),
        ("exit", "crash", "status"),
        ("segfault", "crash", "signal 11"),
        ("sleep", "timeout", "within 1.5 s"),
        ("loop", "timeout", "within 0.3 s of CPU time"),
        ("power", "timeout", "within 0.3 s of CPU time"),
        ("memory", "exception", "MemoryError"),
    ],
)
def test_only_the_guilty_score_zero(harmful: WorkerPool, text: str, kind: str, message: str) -> None:
    scores = harmful.score(["a", "b", text, "c", "d"], {})
    assert scores.values == [1.0, 1.0, 0.0, 1.0, 1.0]
    assert kinds(scores) == [(2, kind)]
    assert message in scores.failures[0].message
    assert harmful.score(["a"] * 3, {}) == Scores([1.0] * 3), "and it goes on"


def test_a_worker_that_dies_is_replaced(harmful: WorkerPool) -> None:
    scores = harmful.score(["a", "warden"], {})
    assert scores.values == [1.0, 0.0]
    assert kinds(scores) == [(1, "crash")]
    assert harmful.score(["a"] * 3, {}).values == [1.0] * 3


def test_a_call_that_fails_leaves_no_answer_to_the_next_one() -> None:
    """The second worker has answered by the time that the answer of the first one is refused."""
    pool = WorkerPool(f"{HERE}:late_or_length", workers=2)
    with pytest.raises(RewardError, match="got nan"):
        pool.score(["nan", "a longer text"], {})
    assert pool.score(["a", "bb"], {}).values == [1.0, 2.0]
    pool.close()


def test_what_a_reward_prints_is_no_answer(harmful: WorkerPool) -> None:
    assert harmful.score(["print", "a"], {}).values == [1.0, 1.0]


def test_values_come_back_in_order() -> None:
    pool = WorkerPool(f"{HERE}:fair", workers=3)
    texts = ["x" * n for n in range(20)] + ["\ud800\x00", "torch"]
    scores = pool.score(texts, {"extra": list(range(22))})
    assert scores.values == [2.0 * n for n in range(20)] + [22.0, 0.0], "and torch is not imported there"
    assert pool.score([], {}) == Scores([])
    pool.close()


def test_workers_share_the_completions_and_stay() -> None:
    pool = WorkerPool(f"{HERE}:process_id", workers=2)
    first, again = (set(pool.score([""] * 8, {}).values) for _ in range(2))
    assert len(first) == 2
    assert first == again
    assert os.getpid() not in first
    pool.close()
    assert set(pool.score([""], {}).values).isdisjoint(first), "closed workers are gone, new ones start"
    pool.close()


def test_a_wrong_reward_is_an_error() -> None:
    pool = WorkerPool(f"{HERE}:wrong_count", workers=1)
    with pytest.raises(RewardError, match="reward wrong_count returned 1 values for 2 completions"):
        pool.score(["a", "b"], {})
    with pytest.raises(ValueError, match="a column cannot be sent"):
        pool.score(["a"], {"odd": [lambda: None]})
    pool.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [(f"{HERE}:nothing", "cannot be imported"), ("no.such:thing", "cannot be imported"), ("odd", "'module:name'")],
)
def test_a_reward_that_cannot_be_loaded(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WorkerPool(name).score(["a"], {})


def test_a_module_that_ends_its_process(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fatal_reward.py").write_text("import os; os._exit(1)")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="ended while it was imported"):
        WorkerPool("fatal_reward:reward").score(["a"], {})


@pytest.mark.parametrize("options", [{"workers": 0}, {"wall_limit": 0}, {"cpu_limit": -1.0}])
def test_bad_limits(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        WorkerPool(f"{HERE}:fair", **options)


def test_workers_end_with_their_process() -> None:
    """Also when that is killed while a completion keeps one busy."""
    script = (
        "import threading, time; from dmpo.rewards.worker_pool import WorkerPool; "
        f"pool = WorkerPool('{HERE}:process_id', workers=1); child = int(pool.score(['a'], {{}}).values[0]); "
        "threading.Thread(target=pool.score, args=(['loop'], {}), daemon=True).start(); "
        "print(pool.workers[0].process.pid, child, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    started = [int(pid) for pid in process.stdout.readline().split()]
    assert len(started) == 2
    assert all(map(alive, started))
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while any(map(alive, started)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, started))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"
