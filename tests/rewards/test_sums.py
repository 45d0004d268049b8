"""If these fail, a run learns from another sum than its config says, or a reward's values go to other completions."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmpo import DMPOConfig
from dmpo.rewards import RewardError, RewardPool
from dmpo.rewards.entries import read_entries, source_of
from dmpo.rewards.round import RoundScoring
from dmpo.rewards.worker_pool import default_workers

HERE = "tests.rewards.misbehaving"


def number(completion: str) -> float:
    return float(completion)


def even(completions: list[str]) -> list[float | None]:
    """Applies to even numbers only."""
    return [1.0 if text[-1:] in "02468" else None for text in completions]


def raises(completions: list[str]) -> list[float]:
    if "3" in completions:
        raise KeyError("three")
    return [2.0] * len(completions)


async def waits(completion: str) -> float:
    if completion == "5":
        raise ValueError("five")
    return 0.25


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[int], list[list[int]]]:
    """The group of each row, and the rows in batches, in any order."""
    groups = draw(st.lists(st.integers(0, 2), min_size=1, max_size=9))
    rows = draw(st.permutations(range(len(groups))))
    cuts = sorted({0, len(rows), *draw(st.lists(st.integers(0, len(rows))))})
    return groups, [rows[a:b] for a, b in pairwise(cuts)]


@given(batches(), st.lists(st.floats(-10, 10), min_size=4, max_size=4))
def test_sums_and_parts_belong_to_their_completions(
    case: tuple[list[int], list[list[int]]], weights: list[float]
) -> None:
    groups, order = case
    pool = RewardPool([number, even, raises, waits], weights)
    with RoundScoring(pool, groups, {}) as scoring:
        for rows in order:
            scoring.add(rows, lambda rows=rows: [str(row) for row in rows])  # type: ignore[misc]
    scores = scoring.scores()
    for row in range(len(groups)):
        expected = {"number": float(row), "raises": 0.0 if row == 3 else 2.0, "waits": 0.0 if row == 5 else 0.25}
        if row % 2 == 0:
            expected["even"] = 1.0
        details = scores.details(row)
        assert details["rewards"] == expected
        assert details.get("failure") == {3: "raises: KeyError: 'three'", 5: "waits: ValueError: five"}.get(row)
        weight_of = dict(zip(pool.names, weights, strict=True))
        total = math.fsum(weight_of[name] * value for name, value in expected.items())
        assert scores.values[row] == pytest.approx(total, abs=1e-12)
    assert sum(pool.failures.values()) == len([row for row in (3, 5) if row < len(groups)])


def test_a_completion_without_any_reward_is_a_failure() -> None:
    def never(completions: list[str]) -> list[None]:
        return [None] * len(completions)

    pool = RewardPool([even, never])
    RewardPool([never, lambda completions: never(completions)]).check({})  # the empty completion is no completion
    scores = pool.score(["1", "2"], {})
    assert scores.values == [0.0, 1.0]
    assert [(failure.row, failure.kind) for failure in scores.failures] == [(0, "missing")]
    assert scores.details(0) == {"rewards": {}, "failure": "even + never: no reward applies to this completion"}


def test_one_reward_has_a_weight_and_no_parts() -> None:
    scores = RewardPool([number], [0.5]).score(["3"], {})
    assert scores.values == [1.5]
    assert scores.details(0) == {}
    with pytest.raises(RewardError, match="finite numbers, got None"):
        RewardPool(even).score(["1"], {})


def test_a_sum_that_overflows_is_refused() -> None:
    with pytest.raises(RewardError, match="weighted sum of the rewards number is not finite"):
        RewardPool([number], [1e300]).score(["1e300"], {})


def test_named_rewards_share_the_cores() -> None:
    pool = RewardPool([f"{HERE}:fair", {"function": f"{HERE}:fair", "name": "again"}, number])
    assert [runner.workers and runner.workers.most_workers for runner in pool.runners] == [
        *[max(1, default_workers() // 2)] * 2,
        None,
    ]
    assert pool.score(["1", "22"], {}).parts == {"fair": [1.0, 2.0], "again": [1.0, 2.0], "number": [1.0, 22.0]}
    pool.close()


@pytest.mark.parametrize(
    ("rewards", "weights", "message"),
    [
        ([number, number], [], "rewards has 2 rewards named 'number'"),
        (
            ["a:f", "b:f"],
            [],
            "2 rewards named 'f', and metrics need different names; give one a name, as in {function:",
        ),
        ([number, even], [1.0], "reward_weights has 1 weights for 2 rewards; give one for each"),
        ([number], [1.0, 2.0], "reward_weights has 2 weights for 1 reward; give one for each"),
        ([number], [math.nan], "reward_weights must be finite numbers, got nan"),
        ([], [], "rewards is an empty list"),
        (["number"], [], "reward must be named 'module:name', got 'number'"),
        ([{"name": "x"}], [], "must name its function"),
        ([{"function": number, "weight": 2}], [], "has no key 'weight'; its keys are function, name, options"),
        ([{"function": number, "options": [1]}], [], "options of reward .* must be a mapping"),
        ([{"function": number, "name": " "}], [], "name of reward .* must be a text"),
        ([{"function": number, "options": {"base": 2}}], [], "reward number has no option 'base'"),
        (["dmpo.rewards:nothing"], [], "cannot be used|cannot be imported"),
    ],
)
def test_wrong_rewards_are_named(rewards: Any, weights: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        RewardPool(rewards, weights).check({})
    assert "\n" not in str(error.value)
    with pytest.raises(TypeError, match="must be a function or its name 'module:name', got int"):
        RewardPool([3])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rewards": ["a:f", "b:f"]}, "2 rewards named 'f'"),
        ({"rewards": ["a:f"], "reward_weights": [1.0, 2.0]}, "2 weights for 1 reward;"),
        ({"rewards": ["a:f"], "reward_weights": [float("inf")]}, "finite number"),
        ({"rewards": ["a:f"], "reward": "a:f"}, "reward must be left out where rewards or reward_weights are given"),
        ({"reward_weights": [1.0], "reward": "a:f"}, "reward must be left out"),
        ({"rewards": ["f"]}, "must be named 'module:name', got 'f'"),
        ({"rewards": [{"function": "a:f", "nme": "x"}]}, "no key 'nme'"),
    ],
)
def test_wrong_keys_are_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        DMPOConfig(model="m", task="sudoku4", output_dir="out", **keys)
    assert "\n" not in str(error.value)


def test_a_list_of_one_may_be_a_single_value() -> None:
    config = DMPOConfig(model="m", task="sudoku4", output_dir="out", rewards="a:f", reward_weights=0.5)  # type: ignore[arg-type]
    assert config.rewards == ["a:f"]
    assert config.reward_weights == [0.5]


def test_names_and_sources() -> None:
    entries: list[Any] = [number, partial(number), "a:f", {"function": "a:f", "name": "brief", "options": {"limit": 3}}]
    assert [entry.name for entry in read_entries(entries[1:])] == ["number", "f", "brief"]
    module = "tests.rewards.test_sums"
    assert [source_of(entry) for entry in entries] == [f"{module}.number", f"{module}.number", "a:f", "a:f"]
    assert source_of(RewardPool(number).score) == "dmpo.rewards.pool.RewardPool.score"
