"""If these fail, the trainer's gradient is not that of the WDCE loss, or depends on how a round is split."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import Accelerator

from dmpo import DMPOConfig, WDCELoss, importance_weights
from dmpo.likelihood import Completions
from dmpo.masking import sample_views
from dmpo.objective import accumulate_gradient
from dmpo.randomness import derive_key
from dmpo.rollout import Rollouts
from tests.tiny_models import tiny, tokens

GROUPS, SIZE, PROMPT, LENGTH, MASK = 3, 4, 5, 8, 3


def rollouts(*, truncated: bool = True) -> Rollouts:
    count = GROUPS * SIZE
    prompt_ids, made = tokens(count, PROMPT, seed=1), tokens(count, LENGTH, seed=2)
    whole = torch.ones_like(made).bool()
    if truncated:
        whole[2, 5:] = False
    completions = Completions(prompt_ids, torch.ones_like(prompt_ids).bool(), made, whole)
    rewards, ref, cur = torch.randn(3, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    other = dict.fromkeys(("entropy", "forwards", "row_forwards", "drawn", "mismatch"), torch.zeros(()))
    return Rollouts(completions, torch.arange(count), rewards, ref, cur, **other)


def config(**changes: Any) -> DMPOConfig:
    return DMPOConfig(model="", task="", output_dir="", num_generations=SIZE, alpha=0.5, strength=0.7, **changes)


def gradients(settings: DMPOConfig, data: Rollouts) -> tuple[float, list[torch.Tensor]]:
    model = tiny().double()
    loss, _ = accumulate_gradient(Accelerator(cpu=True), model, model, data, settings, step=5)
    return loss.item(), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("baseline", ["none", "mean", "negative", "theta"])
@pytest.mark.parametrize("micro_batch_size", [0, 1, 7])
def test_gradient_is_that_of_the_loss(baseline: Any, micro_batch_size: int) -> None:
    """Against WDCELoss on the logits of all views at once, in float64."""
    settings = config(baseline=baseline, micro_batch_size=micro_batch_size)
    # The module knows no EOS: for theta it counts all L tokens of a row.
    data = rollouts(truncated=baseline != "theta")
    loss, got = gradients(settings, data)
    model = tiny().double()
    views = sample_views(data.completions.eligible, 4, key=derive_key(0, "views", 5), row_ids=data.row_ids)
    rows = data.completions.repeat(4)
    logits = model(torch.cat([rows.prompt_ids, rows.tokens.masked_fill(views, MASK)], 1)).logits[:, PROMPT:]
    group = (GROUPS, SIZE)
    cur = data.log_prob_cur.view(group)
    weights = importance_weights(data.rewards.view(group), data.log_prob_ref.view(group), cur, alpha=0.5)
    expected = WDCELoss(baseline, strength=0.7, replicates=4)(
        logits, rows.tokens, views, weights.positive, weights.negative, cur
    )
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-10)
    for ours, theirs in zip(got, [p.grad for p in model.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_views_are_fresh_at_every_step() -> None:
    model, data, losses = tiny(), rollouts(), []
    for step in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.grad = None
        losses.append(accumulate_gradient(Accelerator(cpu=True), model, model, data, config(), step)[0].item())
    assert len(set(losses)) == 3
