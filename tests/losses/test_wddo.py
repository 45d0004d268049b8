"""If these fail, WDDO moves the policy by another gradient than the published objective's."""

from __future__ import annotations

import pytest
import torch

from dmpo import LinearWDDOLoss, WDDOLoss
from dmpo.losses.views import mean_log_prob
from tests.golden_losses import FACTS, TENSORS, golden_inputs

(CASE,) = [case for case in FACTS["cases"] if case["objective"] == "ddo"]


@pytest.mark.parametrize("linear", [False, True], ids=["logits", "linear"])
def test_wddo_matches_golden(linear: bool) -> None:
    assert CASE["ddo_independent"]
    logits, inputs = golden_inputs(CASE)
    del inputs["negative_weights"]
    logits = logits.clone().requires_grad_()
    options = {"alpha": CASE["ddo_alpha"], "beta": CASE["ddo_beta"], "replicates": CASE["replicates"]}
    if linear:  # the identity as the head: hidden states are the logits
        loss = LinearWDDOLoss(**options)(logits, torch.eye(logits.shape[-1]), **inputs)
    else:
        loss = WDDOLoss(**options)(logits, **inputs)
    loss.backward()
    assert loss.item() == pytest.approx(CASE["loss"], rel=1e-5)
    assert logits.grad is not None
    expected = TENSORS[f"{CASE['i']}.grad_logits"][:, FACTS["prompt_length"] :]
    torch.testing.assert_close(logits.grad, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("shape", [(6,), (2, 3)], ids=str)
def test_wddo_against_the_definition(shape: tuple[int, ...]) -> None:
    """Section 6 in float64, with alpha and beta apart from 1; groups are averaged like completions."""
    generator = torch.Generator().manual_seed(0)
    r, b, length, vocab, alpha, beta = 4, 6, 7, 11, 0.3, 0.7
    logits = torch.randn(r * b, length, vocab, generator=generator, dtype=torch.float64)
    targets = torch.randint(vocab, (b, length), generator=generator).repeat(r, 1)
    mask = torch.rand(r * b, length, generator=generator) < 0.5
    mask[:, 0] = True
    weights, cur = torch.rand(b, generator=generator).double(), -15 - torch.rand(b, generator=generator).double()
    log_p = logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1) * mask
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(b):
        views = [length / mask[v * b + i].sum() * log_p[v * b + i].sum() for v in range(r)]
        real, fake = sum(views[:2]) / 2 - cur[i], sum(views[2:]) / 2 - cur[i]
        expected -= weights[i] * torch.sigmoid(beta * real).log() / b + alpha * torch.sigmoid(-beta * fake).log() / b
    loss = WDDOLoss(alpha, beta, replicates=r)(logits, targets, mask, weights.view(shape), cur.view(shape))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_estimates_come_from_their_own_views() -> None:
    """With weight 0 only the second half of the views matters, with alpha 0 only the first."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 3, 5, generator=generator)
    targets, mask = torch.zeros(8, 3, dtype=torch.long), torch.ones(8, 3, dtype=torch.bool)
    for weight, alpha, dead in ((0.0, 1.0, slice(0, 4)), (1.0, 0.0, slice(4, 8))):
        leaf = logits.clone().requires_grad_()
        WDDOLoss(alpha=alpha, replicates=4)(leaf, targets, mask, torch.full((2,), weight), torch.zeros(2)).backward()
        assert leaf.grad is not None
        live = leaf.grad.abs().sum((1, 2)) > 0
        assert not live[dead].any()
        assert live.sum() == 4


def test_extreme_ratios_stay_finite() -> None:
    logits = torch.zeros(4, 3, 5).requires_grad_()
    targets, mask = torch.zeros(4, 3, dtype=torch.long), torch.ones(4, 3, dtype=torch.bool)
    for cur in (-1e4, 1e4):
        loss = WDDOLoss(replicates=4)(logits, targets, mask, torch.ones(1), torch.full((1,), cur))
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
        assert gradient.isfinite().all()
    assert mean_log_prob(torch.zeros(4, 3), mask, 3, 4).shape == (1,)


def test_bad_input_is_named() -> None:
    logits, targets = torch.zeros(4, 3, 5), torch.zeros(4, 3, dtype=torch.long)
    mask, one = torch.ones(4, 3, dtype=torch.bool), torch.ones(1)
    with pytest.raises(ValueError, match="replicates must be even"):
        WDDOLoss(replicates=3)
    with pytest.raises(ValueError, match="beta must be finite"):
        WDDOLoss(beta=float("nan"))
    with pytest.raises(ValueError, match="weights must be"):
        WDDOLoss(replicates=4)(logits, targets, mask, torch.ones(2), torch.ones(2))
    with pytest.raises(ValueError, match="log_prob_cur has shape"):
        WDDOLoss(replicates=4)(logits, targets, mask, one, torch.ones(2))
    with pytest.raises(ValueError, match="log_prob_cur must be finite"):
        WDDOLoss(replicates=4)(logits, targets, mask, one, torch.full((1,), float("inf")))
    with pytest.raises(TypeError, match="mask must be bool"):
        WDDOLoss(replicates=4)(logits, targets, mask.long(), one, one)
