"""If these fail, rspo or tb is not the squared distance from the target, or its minimum is not at the target."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dmpo.objectives import residuals
from dmpo.randomness import derive_key
from dmpo.rollouts.masking import sample_views
from tests import devices
from tests.gradient_problems import GROUPS, MASK, PROMPT, SIZE, config, gradients, rollouts
from tests.tiny_models import tiny

pytestmark = pytest.mark.usefixtures("device")
ALPHA = 0.5


def plain(loss: str, halves: list[Tensor], ref: Tensor, cur: Tensor, rewards: Tensor) -> Tensor:
    """The mean over completions of the product of two residuals, group by group, as the formula is written."""
    products = []
    for g in range(len(rewards)):
        errors = []
        for log_prob in halves:
            log_ratio = log_prob[g] - ref[g] - rewards[g] / ALPHA
            if loss == "tb":
                log_z = sum(-x for x in log_ratio) / len(log_ratio)
            else:
                log_z = ((ref[g] + rewards[g] / ALPHA - cur[g]).exp().sum() / len(log_ratio)).log()
            errors.append(log_ratio + log_z)
        products += [a * b for a, b in zip(*errors, strict=True)]
    return torch.stack(products).mean()


@pytest.mark.parametrize("micro_batch_size", [0, 5])
@pytest.mark.parametrize("truncated", [True, False])
@pytest.mark.parametrize("loss", ["rspo", "tb"])
def test_the_gradient_is_that_of_the_formula(loss: str, truncated: bool, micro_batch_size: int) -> None:
    """Against autograd through both estimates and through log Z, in float64."""
    batch = rollouts(truncated=truncated)
    value, got = gradients(config(loss=loss, micro_batch_size=micro_batch_size, rollout_batch_size=5), batch)
    model = tiny().double()
    views = sample_views(batch.completions.eligible, 4, key=derive_key(0, "views", 5), row_ids=batch.row_ids)
    rows = batch.completions.repeat(4)
    logits = model(torch.cat([rows.prompt_ids, rows.tokens.masked_fill(views, MASK)], 1)).logits[:, PROMPT:]
    log_probs = logits.log_softmax(-1).gather(-1, rows.tokens.unsqueeze(-1)).squeeze(-1)
    of_views = (log_probs * views).sum(-1) / views.sum(-1) * rows.eligible.sum(-1)
    halves = [of_half.view(2, GROUPS, SIZE).mean(0) for of_half in of_views.chunk(2)]
    expected = plain(loss, halves, batch.log_prob_ref, batch.log_prob_cur, batch.rewards)
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=devices.float64_tolerance(1e-10, 0)["rtol"])
    for ours, theirs in zip(got, [p.grad for p in model.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(ours, theirs, **devices.float64_tolerance(1e-10, 1e-12))


@pytest.mark.parametrize("loss", ["rspo", "tb"])
def test_the_minimum_is_at_the_target(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group is a whole space, drawn uniformly: no loss and no gradient at p*, a loss elsewhere."""
    batch = rollouts()
    ref = batch.log_prob_ref.log_softmax(-1)
    uniform = torch.full_like(ref, -math.log(SIZE))
    batch = dataclasses.replace(batch, log_prob_ref=ref, log_prob_cur=uniform)
    best = (ref + batch.rewards / ALPHA).log_softmax(-1)

    def at(log_prob: Tensor) -> tuple[float, list[Tensor]]:
        monkeypatch.setattr(residuals, "estimate", lambda *_: log_prob)
        return gradients(config(loss=loss), batch)

    value, grads = at(best)
    assert abs(value) < 1e-20
    assert all(grad.abs().max() < 1e-10 for grad in grads)
    for other in (ref, uniform, (0.9 * best).log_softmax(-1)):
        value, grads = at(other)
        assert value > 1e-4
        assert any(grad.abs().max() > 1e-6 for grad in grads)


@pytest.mark.parametrize("loss", ["rspo", "tb"])
def test_what_cannot_work_is_refused(loss: str) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"num_generations": 1}, "num_generations must be ≥ 2"),
        ({"alpha": 0.0}, f"alpha must be > 0 for loss '{loss}'"),
        ({"replicates": 2}, f"replicates must be a multiple of 4 for loss '{loss}'"),
        ({"ess_target": 0.5}, f"ess_target must be left at None for loss '{loss}'"),
    ]
    for options, message in refused:
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(config(), **{"loss": loss, **options})
