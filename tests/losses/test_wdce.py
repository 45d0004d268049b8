"""If these fail, a training step moves the policy by another gradient than the published objective's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dmpo import LinearWDCELoss, WDCELoss
from dmpo.losses.views import mean_log_prob
from tests.golden_losses import FACTS, TENSORS, golden_inputs

pytestmark = pytest.mark.usefixtures("device")
CASES = [case for case in FACTS["cases"] if case["objective"] == "wdce"]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['baseline']}-{c['baseline_strength']}-R{c['replicates']}")
@pytest.mark.parametrize("linear", [False, True], ids=["logits", "linear"])
def test_wdce_matches_golden(case: dict[str, Any], linear: bool) -> None:
    logits, inputs = golden_inputs(case)
    logits = logits.clone().requires_grad_()
    options = {
        k: case[v] for k, v in (("baseline", "baseline"), ("strength", "baseline_strength"), ("replicates",) * 2)
    }
    if linear:  # the identity as the head: hidden states are the logits
        loss = LinearWDCELoss(**options)(logits, torch.eye(logits.shape[-1]), **inputs)
    else:
        loss = WDCELoss(**options)(logits, **inputs)
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], rel=1e-5)
    assert logits.grad is not None
    expected = TENSORS[f"{case['i']}.grad_logits"].to(logits.device)
    prompt = FACTS["prompt_length"]
    assert not expected[:, :prompt].any()
    torch.testing.assert_close(logits.grad, expected[:, prompt:], rtol=1e-4, atol=1e-7)


def plain_wdce(
    logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor, a: torch.Tensor, r: int
) -> torch.Tensor:
    """Section 5, word for word."""
    total = torch.zeros((), dtype=torch.float64)
    for n in range(len(targets)):
        log_p = logits[n].double().log_softmax(-1)
        masked = [j for j in range(targets.shape[1]) if mask[n, j]]
        total += a[n % len(a)] * sum(-log_p[j, targets[n, j]] for j in masked) / len(masked) / r
    return total


@pytest.mark.parametrize("baseline", ["none", "mean", "negative", "theta"])
def test_wdce_against_the_definition(baseline: str) -> None:
    generator = torch.Generator().manual_seed(0)
    r, b, length, vocab = 4, 3, 7, 11
    logits = torch.randn(r * b, length, vocab, generator=generator, dtype=torch.float64)
    targets = torch.randint(vocab, (b, length), generator=generator).repeat(r, 1)
    mask = torch.rand(r * b, length, generator=generator) < 0.5
    mask[:, 0] = True
    w, negative, cur = torch.rand(3, b, generator=generator, dtype=torch.float64)
    log_p = logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1) * mask
    theta = (mean_log_prob(log_p, mask, length, r) - cur).softmax(-1)
    b_of = {"none": 0.0, "mean": w.mean(), "negative": negative, "theta": theta}[baseline]
    loss = WDCELoss(baseline, strength=0.7, replicates=r)(logits, targets, mask, w, negative, cur)
    expected = plain_wdce(logits, targets, mask, w - 0.7 * b_of, r)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_groups_average() -> None:
    """[groups, G] weights: the mean over groups of what each group gives alone."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(8, 5, 6, generator=generator)
    targets, mask = torch.randint(6, (8, 5), generator=generator), torch.ones(8, 5, dtype=torch.bool)
    weights, negative = torch.rand(2, 2, 2, generator=generator)
    loss = WDCELoss(replicates=2)
    together = loss(logits, targets, mask, weights, negative)
    rows = [torch.tensor([0, 1, 4, 5]), torch.tensor([2, 3, 6, 7])]  # row = replicate · B + sample
    alone = [loss(logits[r], targets[r], mask[r], weights[g], negative[g]) for g, r in enumerate(rows)]
    assert together.item() == pytest.approx(sum(v.item() for v in alone) / 2, rel=1e-5)


@pytest.mark.cpu_only("on a GPU, values are not checked")
def test_bad_input_is_named() -> None:
    logits, targets, mask = (
        torch.zeros(4, 3, 5),
        torch.zeros(4, 3, dtype=torch.long),
        torch.ones(4, 3, dtype=torch.bool),
    )
    with pytest.raises(ValueError, match="unknown baseline 'mena'"):
        WDCELoss("mena")
    with pytest.raises(ValueError, match="replicates"):
        WDCELoss(replicates=0)
    with pytest.raises(ValueError, match="weights must be"):
        WDCELoss(replicates=4)(logits, targets, mask, torch.ones(2), torch.ones(2))
    with pytest.raises(ValueError, match="negative_weights"):
        WDCELoss(replicates=2)(logits, targets, mask, torch.ones(2))
    with pytest.raises(TypeError, match="mask must be bool"):
        WDCELoss("theta", replicates=2)(logits, targets, mask.long(), torch.ones(2), None, torch.ones(2))
    nan = torch.full((2,), float("nan"))
    with pytest.raises(ValueError, match="log_prob_cur must be finite"):
        WDCELoss("theta", replicates=2)(logits, targets, mask, torch.ones(2), None, nan)
    with pytest.raises(ValueError, match="weights"):
        WDCELoss("theta", replicates=2)(logits, targets, mask, nan, None, torch.ones(2))
    with pytest.raises(ValueError, match="negative_weights has shape"):
        WDCELoss(replicates=2)(logits, targets, mask, torch.ones(2), torch.ones(3))
