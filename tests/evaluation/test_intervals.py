"""If these fail, an evaluation claims more than its samples tell."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmpo.evaluation.intervals import Accuracy, MeanReward, estimate_pass, pass_at_k, wilson


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_one(samples: int) -> None:
    for solved in range(samples + 1):
        for k in range(1, samples + 1):
            subsets = list(itertools.combinations(range(samples), k))
            share = sum(any(i < solved for i in subset) for subset in subsets) / len(subsets)
            assert pass_at_k(samples, solved, k) == pytest.approx(share, abs=1e-15)


@pytest.mark.parametrize(("samples", "solved", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 4), (3, 1, 0)])
def test_impossible_counts(samples: int, solved: int, k: int) -> None:
    with pytest.raises(ValueError, match="samples"):
        pass_at_k(samples, solved, k)


def test_many_samples_are_exact() -> None:
    expected = 1 - math.prod((3000 - i) / (4096 - i) for i in range(100))
    assert pass_at_k(4096, 1096, 100) == pytest.approx(expected, rel=1e-12)


def test_one_sample_is_wilson() -> None:
    found = estimate_pass([1, 0, 1, 1], 1, 1)
    assert (found.value, found.low, found.high) == (0.75, *Accuracy(3, 4).interval())
    assert estimate_pass([1] * 50, 1, 1).high == 1
    assert found.method == "wilson"


@pytest.mark.parametrize("total", [1, 3, 64, 96, 1000])
def test_none_right_begins_at_zero_and_all_right_ends_at_one(total: int) -> None:
    assert wilson(0.0, total)[0] == 0.0
    assert wilson(1.0, total)[1] == 1.0


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(1, 4))
def test_interval_holds_the_estimate(solved: list[int], k: int) -> None:
    found = estimate_pass(solved, 4, k)
    assert 0 <= found.low <= found.value <= found.high <= 1
    # never surer than if every sample were an independent trial, nor less than with one trial an example
    low, high = wilson(found.value, 4 * len(solved))
    assert high - low <= found.high - found.low + 1e-12
    low, high = wilson(found.value, len(solved))
    assert found.high - found.low <= high - low + 1e-12


def test_coverage_of_clustered_samples() -> None:
    """Eight samples an example that nearly always agree: treating them as 8 N trials covers too seldom."""
    random, hits, naive, runs, N, n = np.random.default_rng(0), 0, 0, 400, 60, 8
    truth = 0.4  # mean of the Beta below
    for _ in range(runs):
        rates = random.beta(0.4, 0.6, N)
        solved = random.binomial(n, rates)
        found = estimate_pass(solved.tolist(), n, 1)
        hits += found.low <= truth <= found.high
        low, high = wilson(solved.sum() / (n * N), n * N)
        naive += low <= truth <= high
    assert 0.92 <= hits / runs <= 0.98  # 0.95 within three standard errors of 400 runs, 0.011 each
    assert naive / runs < 0.75


@pytest.mark.parametrize(("N", "least"), [(1, 0.95), (2, 0.83)])
def test_coverage_with_few_examples(N: int, least: float) -> None:
    """Of one or two: were samples of examples that agree taken for independent trials, 85 and 76 % would hold it."""
    random, runs, n = np.random.default_rng(1), 2000, 8
    drawn = random.binomial(n, random.beta(0.4, 0.6, (runs, N)))
    found = [estimate_pass(solved.tolist(), n, 1) for solved in drawn]
    assert sum(one.low <= 0.4 <= one.high for one in found) / runs >= least


def test_the_variance_between_examples_is_unbiased() -> None:
    found = estimate_pass([0, 3, 4, 2], 4, 1)  # shares 0, 3/4, 1, 1/2: mean 9/16, s² = 35/64 / 3
    assert (found.low, found.high) == wilson(9 / 16, 9 / 16 * 7 / 16 * 4 / (35 / 64 / 3))
    assert 9 / 16 * 7 / 16 * 4 * 3 * 64 / 35 > 4


@pytest.mark.parametrize("solved", [[2], [2, 2], [1, 1, 1], [0, 0], [4, 4]])
def test_examples_that_agree_count_once_each(solved: list[int]) -> None:
    found = estimate_pass(solved, 4, 1)
    assert (found.low, found.high) == pytest.approx(wilson(solved[0] / 4, len(solved)), abs=1e-15)


def test_no_examples() -> None:
    with pytest.raises(ValueError, match="at least one example"):
        estimate_pass([], 1, 1)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30), st.integers(1, 29))
def test_the_mean_reward_and_its_interval(rewards: list[float], cut: int) -> None:
    """Sums over ranks give what all rows give."""
    whole, (first, second) = MeanReward.of(rewards), (MeanReward.of(rewards[:cut]), MeanReward.of(rewards[cut:]))
    sums = [a + b for a, b in zip(vars(first).values(), vars(second).values(), strict=True)]
    half = 1.959963984540054 * np.std(rewards, ddof=1) / math.sqrt(len(rewards))
    for measure in (whole, MeanReward.from_sums(*sums)):
        low, high = measure.interval()
        assert measure.mean == pytest.approx(np.mean(rewards), abs=1e-12)
        # the variance is a difference of two numbers of up to 10,000, which leaves 1e-11 of it
        assert (high - low) / 2 == pytest.approx(half, abs=1e-5)
        assert (high + low) / 2 == pytest.approx(measure.mean, abs=1e-12)


def test_one_reward_has_no_spread() -> None:
    assert MeanReward.of([3.5]).interval() == (3.5, 3.5)
    assert MeanReward.text(1 / 3) == "0.333"
    assert Accuracy.text(1 / 3) == "33.3%"
