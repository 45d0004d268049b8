"""If these fail, a wrong reward is found after hours, or a right one's failures are lost."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest

from dmpo.rewards import RewardError, RewardPool, load_object, score, sudoku

HERE = "tests.rewards.misbehaving"


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([float("nan")] * 2, "finite numbers, got nan"),
        ([1.0, float("inf")], "finite numbers, got inf"),
        ([1.0], "1 values for 2 completions"),
        (None, "a list of numbers, got NoneType"),
        (["1", "2"], "finite numbers, got '1'"),
        ([None, 1.0], "finite numbers, got None"),
    ],
)
def test_a_wrong_reward_is_named(returned: Any, message: str) -> None:
    def mine(completions: list[str], **columns: list[Any]) -> list[float]:
        return returned

    with pytest.raises(ValueError, match=f"reward mine .*{message}"):
        score(mine, ["a", "b"], {})
    with pytest.raises(RewardError, match=f"reward mine .*{message}"):
        RewardPool(mine).score(["a", "b"], {})
    with pytest.raises(RewardError, match=f"reward mine .*{message}"):
        RewardPool(mine).check({})


def test_load_object() -> None:
    assert load_object("dmpo.rewards:sudoku", "reward") is sudoku
    for name in ("sudoku", "dmpo.rewards:", "dmpo.rewards:nothing", "no.such.module:f", "dmpo.rewards:HOLES"):
        with pytest.raises(ValueError, match="reward"):
            load_object(name, "reward")


def odd(completions: list[str], **columns: list[Any]) -> list[float]:
    if "bad" in completions:
        raise ZeroDivisionError("once")
    return [float(len(text)) for text in completions]


@pytest.mark.parametrize("reward", [odd, f"{HERE}:harmful"])
def test_failures_are_counted_and_logged(reward: Any, caplog: pytest.LogCaptureFixture) -> None:
    pool = RewardPool(reward, workers=1, timeout=30.0)
    bad = "bad" if reward is odd else "raise"
    pool.check({"column": 1})
    with caplog.at_level(logging.WARNING, logger="dmpo"):
        assert pool.score(["a", bad, "c", bad], {"column": [1, 2, 3, 4]}).values == [1.0, 0.0, 1.0, 0.0]
        assert pool.score(["a", bad], {"column": [1, 2]}).values == [1.0, 0.0]
    assert pool.failures == {"exception": 3}
    assert len(caplog.messages) == 2
    assert "failed on 2 of 4 completions" in caplog.messages[0]
    pool.close()


def test_a_check_takes_exceptions_for_errors() -> None:
    def faulty(completions: list[str], **columns: list[Any]) -> list[float]:
        return [columns["misspelt"][0]]

    with pytest.raises(ValueError, match=r"reward faulty fails on an empty completion .*KeyError: 'misspelt'"):
        RewardPool(faulty).check({"digit": 1})
    pool = RewardPool(f"{HERE}:late_nan", workers=1)
    pool.check({})
    with pytest.raises(RewardError, match="reward late_nan must return finite numbers, got nan"):
        pool.score(["a"], {})
    with pytest.raises(ValueError, match="cannot be imported"):
        RewardPool("no.such:reward").check({})
    with pytest.raises(ValueError, match="cannot be imported"):
        RewardPool("dmpo.reward:gsm8k").check({})


def test_failures_of_math_count() -> None:
    bomb = r"\boxed{\int_0^{99} (x^{99}+1)^{99} dx}"
    pool = RewardPool("dmpo.rewards:math")
    scores = pool.score(["", bomb], {"answer": ["5", "5"]})
    assert scores.values == [0.0, 0.5]
    assert [failure.row for failure in scores.failures] == [1]
    assert pool.failures == {"timeout": 1}


def test_pure_rewards_start_no_process() -> None:
    columns_of: dict[str, dict[str, list[Any]]] = {
        "gsm8k": {"answer": ["7"]},
        "countdown": {"numbers": [[7]], "target": [7]},
        "sudoku": {"puzzle": ["." * 16], "solution": ["1" * 16]},
    }
    for name, columns in columns_of.items():
        pool = RewardPool(f"dmpo.rewards:{name}")
        assert pool.runners[0].workers is None
        pool.score(["7"], columns)


def test_importing_is_cheap() -> None:
    code = (
        "import sys, dmpo, dmpo.rewards, dmpo.tasks; dmpo.tasks.load_task('sudoku4').row('train', 0); "
        "print(sorted({'torch', 'datasets', 'sympy', 'math_verify', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
