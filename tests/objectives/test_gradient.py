"""If these fail, the trainer's gradient is not the gradient of the WDCE loss, or depends on the split of a round."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from dmpo import WDCELoss, WDDOLoss, importance_weights
from dmpo.models.masked_lm import MaskedLlama
from dmpo.objectives.gradient import accumulate_gradient, group_weights
from dmpo.randomness import derive_key
from dmpo.rollouts.masking import sample_views
from tests import devices
from tests.gradient_problems import GROUPS, LENGTH, MASK, PROMPT, SIZE, config, gradients, rollouts
from tests.tiny_models import tiny

pytestmark = pytest.mark.usefixtures("device")


@pytest.mark.parametrize("baseline", ["none", "mean", "negative", "theta"])
@pytest.mark.parametrize("micro_batch_size", [0, 1, 7])
def test_gradient_is_that_of_the_loss(baseline: Any, micro_batch_size: int) -> None:
    """Against WDCELoss on the logits of all views at once, in float64."""
    settings = config(baseline=baseline, micro_batch_size=micro_batch_size)
    # The module knows no EOS: for theta it counts all L tokens of a row.
    batch = rollouts(truncated=baseline != "theta")
    loss, got = gradients(settings, batch)
    model = tiny().double()
    views = sample_views(batch.completions.eligible, 4, key=derive_key(0, "views", 5), row_ids=batch.row_ids)
    rows = batch.completions.repeat(4)
    logits = model(torch.cat([rows.prompt_ids, rows.tokens.masked_fill(views, MASK)], 1)).logits[:, PROMPT:]
    cur = batch.log_prob_cur
    weights = importance_weights(batch.rewards, batch.log_prob_ref, cur, alpha=0.5)
    expected = WDCELoss(baseline, strength=0.7, replicates=4)(
        logits, rows.tokens, views, weights.positive, weights.negative, cur
    )
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=devices.float64_tolerance(1e-10, 0)["rtol"])
    for ours, theirs in zip(got, [p.grad for p in model.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(ours, theirs, **devices.float64_tolerance(1e-10, 1e-12))


@pytest.mark.parametrize("micro_batch_size", [0, 7])
def test_gradient_of_a_tied_head(micro_batch_size: int) -> None:
    """The weight is the embedding and the head: autograd adds up both parts, and so do the micro-batches."""
    sizes: dict[str, Any] = {"tie_embeddings": True, "num_kv_heads": 1}
    batch, model = rollouts(), tiny(**sizes).double()
    loss, got = gradients(config(baseline="negative", micro_batch_size=micro_batch_size), batch, **sizes)
    views = sample_views(batch.completions.eligible, 4, key=derive_key(0, "views", 5), row_ids=batch.row_ids)
    rows = batch.completions.repeat(4)
    logits = model(torch.cat([rows.prompt_ids, rows.tokens.masked_fill(views, MASK)], 1)).logits[:, PROMPT:]
    cur = batch.log_prob_cur
    weights = importance_weights(batch.rewards, batch.log_prob_ref, cur, alpha=0.5)
    expected = WDCELoss("negative", strength=0.7, replicates=4)(
        logits, rows.tokens, views, weights.positive, weights.negative, cur
    )
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=devices.float64_tolerance(1e-10, 0)["rtol"])
    named = dict(model.named_parameters())
    assert "lm_head.weight" not in named
    for ours, theirs in zip(got, named.values(), strict=True):
        torch.testing.assert_close(ours, theirs.grad, **devices.float64_tolerance(1e-10, 1e-12))


@pytest.mark.parametrize("micro_batch_size", [0, 5])
@pytest.mark.parametrize("antithetic", [True, False])
def test_wddo_gradient_is_that_of_the_loss(antithetic: bool, micro_batch_size: int) -> None:
    """Against WDDOLoss, differentiated by autograd through σ; the walk knows coefficients only."""
    options: dict[str, Any] = {"wddo_alpha": 0.6, "wddo_beta": 0.05, "antithetic": antithetic}
    settings = config(loss="wddo", micro_batch_size=micro_batch_size, **options)
    batch = rollouts(truncated=False)
    loss, got = gradients(settings, batch)
    model = tiny().double()
    views = sample_views(
        batch.completions.eligible, 4, key=derive_key(0, "views", 5), row_ids=batch.row_ids, antithetic=antithetic
    )
    rows = batch.completions.repeat(4)
    logits = model(torch.cat([rows.prompt_ids, rows.tokens.masked_fill(views, MASK)], 1)).logits[:, PROMPT:]
    weights = importance_weights(batch.rewards, batch.log_prob_ref, batch.log_prob_cur, alpha=0.5).positive
    expected = WDDOLoss(0.6, 0.05, replicates=4)(logits, rows.tokens, views, weights, batch.log_prob_cur)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=devices.float64_tolerance(1e-10, 0)["rtol"])
    for ours, theirs in zip(got, [p.grad for p in model.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(ours, theirs, **devices.float64_tolerance(1e-10, 1e-12))


@pytest.mark.parametrize("loss", ["wdce", "wddo"])
@pytest.mark.parametrize("baseline", ["mean", "theta"])
def test_the_split_into_micro_batches_does_not_matter(loss: Any, baseline: Any) -> None:
    batch = rollouts()
    whole = gradients(config(loss=loss, baseline=baseline, micro_batch_size=0), batch)
    for size in (1, 7, 47, 48, 1000):
        split = gradients(config(loss=loss, baseline=baseline, micro_batch_size=size, rollout_batch_size=size), batch)
        assert split[0] == pytest.approx(whole[0], rel=devices.float64_tolerance(1e-12, 0)["rtol"])
        for a, b in zip(whole[1], split[1], strict=True):
            torch.testing.assert_close(b, a, **devices.float64_tolerance(1e-10, 1e-13))


def test_the_two_halves_of_wddo_are_independent() -> None:
    """No view of the first half is the complement of one of the second: halves of pairs would be."""
    batch = rollouts(truncated=False)
    views = sample_views(batch.completions.eligible, 4, key=derive_key(0, "views", 5), row_ids=batch.row_ids)
    real, fake = views.view(2, 2, GROUPS * SIZE, LENGTH)
    assert torch.equal(real[0], ~real[1])
    assert not any(torch.equal(a, ~b) for a in real for b in fake)
    with pytest.raises(ValueError, match="multiple of 4"):
        config(loss="wddo", replicates=2)


def test_adaptive_coefficient_gives_the_asked_ess() -> None:
    batch = rollouts()
    weights, coeff = group_weights(batch, config(ess_target=0.6))
    inside = (coeff > 0.011) & (coeff < 0.989)
    assert inside.any()
    torch.testing.assert_close(weights.ess[inside], torch.full_like(weights.ess[inside], 0.6), rtol=1e-9, atol=0)
    assert len(coeff.unique()) == GROUPS, "each group has its own"


def test_raw_rewards_are_the_weights() -> None:
    batch = rollouts()
    settings = config(weighting="reward", baseline="mean")
    weights, coeff = group_weights(batch, settings)
    assert torch.equal(weights.positive, batch.rewards)
    assert coeff.tolist() == [1.0] * GROUPS
    size = batch.rewards.abs()
    torch.testing.assert_close(weights.ess, size.sum(-1) ** 2 / (SIZE * (size**2).sum(-1)))
    assert torch.isfinite(torch.tensor(gradients(settings, batch)[0]))
    nothing = dataclasses.replace(batch, rewards=torch.zeros_like(batch.rewards))
    assert group_weights(nothing, settings)[0].ess.tolist() == [0.0] * GROUPS
    with pytest.raises(ValueError, match="none, mean or theta"):
        config(weighting="reward", baseline="negative")


def test_views_are_fresh_at_every_step() -> None:
    model, batch, losses = tiny(), rollouts(), []
    for step in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.grad = None
        losses.append(accumulate_gradient(devices.accelerator(), model, model, batch, config(), step).loss)
    assert len(set(losses)) == 3


@pytest.mark.parametrize("loss", ["wdce", "wddo"])
def test_short_prompts_fill_a_micro_batch_of_tokens(loss: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 12 prompts half have 2 tokens and half 5: passes of 4 views of 5 + 8 tokens, or 5 of 2 + 8; the same gradient.

    The positions of trimmed rows start elsewhere, and the sines and cosines of positions are float32.
    """
    batch = rollouts()
    batch.completions.prompt_mask[::2, :3] = False
    whole = gradients(config(loss=loss, micro_batch_size=0), batch)
    sizes: list[tuple[int, int]] = []
    run = MaskedLlama.forward

    def forward(self: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            sizes.append(tuple(kwargs["input_ids"].shape))
        return run(self, **kwargs)

    monkeypatch.setattr(MaskedLlama, "forward", forward)
    loss_of_chunks, grads = gradients(
        config(
            loss=loss,
            micro_batch_size=4,
            max_prompt_length=PROMPT,
            gen_length=LENGTH,
            block_length=LENGTH,
            steps=LENGTH,
        ),
        batch,
    )
    assert loss_of_chunks == pytest.approx(whole[0], rel=1e-6)
    for ours, theirs in zip(grads, whole[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert sizes[:6] == [(4, PROMPT + LENGTH)] * 6
    assert sizes[6:] == [(5, 2 + LENGTH)] * 4 + [(4, 2 + LENGTH)]
