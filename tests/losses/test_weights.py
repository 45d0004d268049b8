"""If these fail, completions are weighted wrongly: the policy is pulled towards another target than p*."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmpo.losses.weights import (
    COEFF_RANGE,
    adaptive_coeff,
    baseline_weights,
    effective_sample_size,
    importance_weights,
)

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
WEIGHT_CASES = json.loads((GOLDEN / "weights.json").read_text())
COEFF_CASES = json.loads((GOLDEN / "adaptive_coeff.json").read_text())

groups = st.integers(2, 8).flatmap(
    lambda g: st.lists(
        st.lists(st.floats(-5, 5, width=32), min_size=g, max_size=g).map(torch.tensor), min_size=3, max_size=3
    )
)


@pytest.mark.parametrize("case", WEIGHT_CASES, ids=[c["name"] for c in WEIGHT_CASES])
def test_weights_match_golden(case: dict[str, Any]) -> None:
    group = case["group_size"]
    rewards, ref, cur = (torch.tensor(case[k]).view(-1, group) for k in ("rewards", "log_prob_ref", "log_prob_cur"))
    weights = importance_weights(rewards, ref, cur, alpha=case["alpha"], coeff=case["coeff"])
    # z is of the order of r/alpha ≈ 30, so float32 rounding of z moves a weight by about 30 · 2^-24 relative.
    torch.testing.assert_close(weights.positive.flatten(), torch.tensor(case["weights"]), rtol=2e-5, atol=1e-12)
    assert weights.negative is not None
    torch.testing.assert_close(
        weights.negative.flatten(), torch.tensor(case["negative_weights"]), rtol=2e-5, atol=1e-12
    )


@pytest.mark.parametrize("case", COEFF_CASES)
def test_adaptive_coeff_matches_golden(case: dict[str, Any]) -> None:
    rewards, d = torch.tensor(case["rewards"]), torch.tensor(case["log_rnds"])
    coeff = adaptive_coeff(rewards, d, torch.zeros_like(d), alpha=case["alpha"], ess_target=case["ess_target"])
    assert coeff.item() == pytest.approx(case["coeff"], abs=1e-5)


def test_adaptive_coeff_at_both_ends() -> None:
    zero, peaked = torch.zeros(4), torch.tensor([1e6, 0.0, 0.0, 0.0])
    assert adaptive_coeff(zero, zero, zero, alpha=1.0, ess_target=0.5).item() == COEFF_RANGE[1]
    assert adaptive_coeff(peaked, zero, zero, alpha=1.0, ess_target=0.5).item() == COEFF_RANGE[0]


@given(groups, st.floats(0.01, 5), st.floats(0.3, 0.95))
def test_adaptive_coeff_hits_its_target(values: list[torch.Tensor], alpha: float, target: float) -> None:
    rewards, ref, cur = (v.double() for v in values)
    coeff = adaptive_coeff(rewards, ref, cur, alpha=alpha, ess_target=target)
    ess = importance_weights(rewards, ref, cur, alpha=alpha, coeff=coeff).ess.item()
    if coeff.item() == COEFF_RANGE[1]:
        assert ess >= target - 1e-9
    elif coeff.item() == COEFF_RANGE[0]:
        assert ess <= target + 1e-9
    else:
        assert ess == pytest.approx(target, abs=1e-6)


@given(groups, st.sampled_from([0.0, 0.04, 1.0]), st.floats(0.01, 1))
def test_weights_are_a_distribution(values: list[torch.Tensor], alpha: float, coeff: float) -> None:
    weights = importance_weights(*(v.double() for v in values), alpha=alpha, coeff=coeff)
    assert weights.positive.sum().item() == pytest.approx(1, abs=1e-12)
    assert weights.negative is not None
    assert weights.negative.sum().item() == pytest.approx(1, abs=1e-12)
    assert 1 / len(values[0]) - 1e-12 <= weights.ess.item() <= 1 + 1e-12


def test_groups_do_not_mix() -> None:
    rewards, ref, cur = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)).unbind()
    together = importance_weights(rewards, ref, cur, alpha=0.5)
    alone = [importance_weights(*row, alpha=0.5) for row in zip(rewards, ref, cur, strict=True)]
    torch.testing.assert_close(together.positive, torch.stack([w.positive for w in alone]))
    torch.testing.assert_close(together.ess, torch.stack([w.ess for w in alone]))


def test_effective_sample_size_by_hand() -> None:
    assert effective_sample_size(torch.tensor([1.0, 0.0, 0.0, 0.0])).item() == 0.25
    assert effective_sample_size(torch.full((4,), 0.25)).item() == 1
    assert effective_sample_size(torch.tensor([0.5, 0.5, 0.0, 0.0])).item() == 0.5


def test_baselines_by_hand() -> None:
    weights = torch.tensor([[0.7, 0.3]])
    assert baseline_weights("none", weights) is None
    mean = baseline_weights("mean", weights)
    assert mean is not None
    assert mean.tolist() == [[0.5, 0.5]]
    theta = baseline_weights("theta", weights, None, torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
    torch.testing.assert_close(theta, torch.tensor([[1.0, 0.0]]).softmax(-1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rewards": torch.tensor([0.0, float("nan")])}, "rewards must be finite"),
        ({"log_prob_ref": torch.zeros(3)}, "log_prob_ref has shape"),
        ({"alpha": -1.0}, "alpha must be"),
        ({"coeff": 0.0}, "coeff must be"),
        ({"coeff": 1.5}, "coeff must be"),
    ],
)
def test_bad_input_is_named(arguments: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {name: torch.zeros(2) for name in ("rewards", "log_prob_ref", "log_prob_cur")} | {
        "alpha": 1.0
    }
    with pytest.raises(ValueError, match=message):
        importance_weights(**(good | arguments))


def test_integers_are_a_type_error() -> None:
    whole = torch.ones(2, dtype=torch.long)
    with pytest.raises(TypeError, match="rewards must be floating point"):
        importance_weights(whole, torch.zeros(2), torch.zeros(2), alpha=0.0)


@pytest.mark.parametrize("baseline", ["negative", "theta", "typo"])
def test_baseline_without_its_input(baseline: str) -> None:
    with pytest.raises(ValueError, match=baseline):
        baseline_weights(baseline, torch.ones(1, 2))
