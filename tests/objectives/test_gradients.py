"""If these fail, a published objective moves the policy by another gradient than its formula's."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dmpo import DMPOConfig
from dmpo.objectives.diffu_grpo import CUR, REF, token_losses
from dmpo.objectives.gradient import accumulate_gradient, group_weights
from dmpo.objectives.one_step import one_step_log_probs, one_step_views
from dmpo.rollouts.batch import Batch
from tests import devices
from tests.gradient_problems import (
    GROUPS,
    INNER,
    MASK,
    PROMPT,
    SIZE,
    STEP,
    gradients,
    one_step_config,
    rollouts,
    scored,
)
from tests.tiny_models import tiny

pytestmark = pytest.mark.usefixtures("device")


def plain_log_probs(model: Any, batch: Batch, settings: DMPOConfig) -> list[Tensor]:
    """[B, L] of each replicate: log-softmax of whole logits, with all tokens of the completion masked."""
    rows, _ = one_step_views(batch.completions, batch.row_ids, settings, STEP % INNER, MASK)
    logits = model(torch.cat([rows.prompt_ids, torch.full_like(rows.tokens, MASK)], 1)).logits[:, PROMPT:]
    return list(logits.log_softmax(-1).gather(-1, rows.tokens.unsqueeze(-1)).squeeze(-1).chunk(settings.replicates))


def wd1_loss(log_probs: list[Tensor], batch: Batch, settings: DMPOConfig) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for group in range(GROUPS):
        rows = range(group * SIZE, (group + 1) * SIZE)
        advantages = batch.rewards[group] - sum(batch.rewards[group]) / SIZE
        up, down = (sum(math.exp(s * settings.wd1_psi * a) for a in advantages) for s in (1, -1))
        for advantage, row in zip(advantages, rows, strict=True):
            scaled = settings.wd1_psi * advantage
            weight = math.exp(scaled) / up - math.exp(-scaled) / down
            for of_view in log_probs:
                total = total - weight * of_view[row][batch.completions.eligible[row]].sum() / len(log_probs)
    return total / GROUPS


def diffu_grpo_loss(log_probs: list[Tensor], batch: Batch, settings: DMPOConfig) -> Tensor:
    losses = []
    for view, of_view in enumerate(log_probs):
        for group in range(GROUPS):
            tokens = []
            for row in range(group * SIZE, (group + 1) * SIZE):
                live = batch.completions.eligible[row]
                log_prob = of_view[row][live]
                ratio = (log_prob - batch.scores[CUR][row, STEP % INNER, view][live]).exp()
                gain = batch.rewards[group, row % SIZE] - batch.rewards[group].mean()
                clipped = ratio.clamp(1 - settings.clip_epsilon, 1 + settings.clip_epsilon)
                value = -torch.minimum(ratio * gain, clipped * gain)
                if REF in batch.scores:
                    drift = batch.scores[REF][row, STEP % INNER, view][live] - log_prob
                    value = value + settings.kl_beta * (drift.exp() - drift - 1)
                tokens.append(value)
            losses.append(torch.cat(tokens).mean())
    return torch.stack(losses).mean()


def expected(batch: Batch, settings: DMPOConfig) -> tuple[float, list[Tensor]]:
    model = tiny().double()
    log_probs = plain_log_probs(model, batch, settings)
    loss = (wd1_loss if settings.loss == "wd1" else diffu_grpo_loss)(log_probs, batch, settings)
    loss.backward()
    return loss.item(), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("micro_batch_size", [0, 7])
@pytest.mark.parametrize("changes", [{"loss": "wd1"}, {"loss": "diffu_grpo"}, {"loss": "diffu_grpo", "kl_beta": 0.0}])
def test_gradient_is_that_of_the_formula(changes: dict[str, Any], micro_batch_size: int) -> None:
    """Written out token by token and differentiated by autograd, in float64; whole groups against micro-batches."""
    options = one_step_config(**changes, micro_batch_size=micro_batch_size)
    batch = scored(options)
    loss, got = gradients(options, batch)
    wanted, grads = expected(batch, options)
    assert loss == pytest.approx(wanted, rel=devices.float64_tolerance(1e-10, 0)["rtol"])
    for ours, theirs in zip(got, grads, strict=True):
        torch.testing.assert_close(ours, theirs, **devices.float64_tolerance(1e-10, 1e-12))


def test_weights_of_wd1_sum_to_nothing_in_each_group() -> None:
    batch = scored(one_step_config("wd1"))
    weights, coeff = group_weights(batch, one_step_config("wd1"))
    assert weights.negative is not None
    torch.testing.assert_close((weights.positive - weights.negative).sum(-1), torch.zeros(GROUPS).double())
    ratio = (weights.positive / weights.negative).log() / 2  # ψ·A, up to a constant of the group
    torch.testing.assert_close(
        ratio - ratio.mean(-1, keepdim=True), 1.7 * (batch.rewards - batch.rewards.mean(-1, True))
    )
    assert bool(coeff.isnan().all()), "there is none"
    assert ((weights.ess > 1 / SIZE) & (weights.ess < 1)).all()


@pytest.mark.parametrize("loss", ["wd1", "diffu_grpo"])
def test_a_group_whose_rewards_agree_teaches_nothing(loss: str) -> None:
    options = one_step_config(loss, **({} if loss == "wd1" else {"kl_beta": 0.0}))
    batch = dataclasses.replace(scored(options), rewards=torch.full((GROUPS, SIZE), 0.3, dtype=torch.float64))
    value, grads = gradients(options, batch)
    assert value == 0
    assert all(grad.abs().max() == 0 for grad in grads)


def test_the_clip_cuts_what_goes_too_far_and_nothing_else() -> None:
    """Loss and dloss/dlog p at ε = 0.5 by hand; a ratio of e^800 that is cut off does not overflow."""
    ratios = torch.tensor([2.0, 1.2, 0.1, 2.0, 0.6, 0.1], dtype=torch.float64)
    change = torch.cat([ratios.log(), torch.tensor([800.0, -800.0, 800.0], dtype=torch.float64)]).unsqueeze(1)
    gains = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 1.0, -1.0, 0.0], dtype=torch.float64)
    change.requires_grad_()
    losses, clipped, kl = token_losses(change, torch.zeros_like(change), None, gains, 0.5, 0.0)
    losses.sum().backward()
    assert losses.flatten().tolist() == pytest.approx([-1.5, -1.2, -0.1, 2.0, 0.6, 0.5, -1.5, 0.5, 0], rel=1e-12)
    assert change.grad is not None
    assert change.grad.flatten().tolist() == pytest.approx([0, -1.2, -0.1, 2.0, 0.6, 0, 0, 0, 0], rel=1e-12)
    assert clipped.flatten().tolist() == [True, False, False, False, False, True, True, True, False]
    assert kl.isnan().all()


def test_policy_of_the_rollout_has_ratio_one_and_no_kl() -> None:
    """At the first step of a round the loss is the mean of −A over tokens, and its KL has no slope."""
    options = one_step_config("diffu_grpo")
    batch = rollouts(truncated=False)
    now = one_step_log_probs(tiny().double(), batch.completions, batch.row_ids, options)
    batch = dataclasses.replace(batch, scores={CUR: now, REF: now})
    model = tiny().double()
    result = accumulate_gradient(devices.accelerator(), model, model, batch, options, STEP)
    assert result.report["clip_share"] == 0
    assert abs(result.report["kl"]) < 1e-15
    assert abs(result.loss) < 1e-12, "all completions are equally long"
    without = gradients(one_step_config("diffu_grpo", kl_beta=0.0), dataclasses.replace(batch, scores={CUR: now}))[1]
    for with_kl, plain in zip([p.grad for p in model.parameters() if p.grad is not None], without, strict=True):
        torch.testing.assert_close(with_kl, plain, **devices.float64_tolerance(1e-9, 1e-13))


def test_the_reports_are_means_over_tokens() -> None:
    options = one_step_config("diffu_grpo", micro_batch_size=5)
    batch, model = scored(options), tiny().double()
    result = accumulate_gradient(devices.accelerator(), model, model, batch, options, STEP)
    cut, kl = [], []
    log_probs = torch.stack(plain_log_probs(tiny().double(), batch, options), 1).detach()  # [B, R, L]
    ratio, drift = (log_probs - batch.scores[CUR][:, STEP]).exp(), batch.scores[REF][:, STEP] - log_probs
    gains = (batch.rewards - batch.rewards.mean(-1, keepdim=True)).flatten()
    for group in range(GROUPS):
        of_group = slice(group * SIZE, (group + 1) * SIZE)
        live = batch.completions.eligible[of_group].unsqueeze(1).expand(-1, 3, -1)
        gain = gains[of_group, None, None].expand_as(live)[live]
        of_live = ratio[of_group][live]
        cut.append((((gain > 0) & (of_live > 1.3)) | ((gain < 0) & (of_live < 0.7))).double().mean())
        kl.append((drift[of_group].exp() - drift[of_group] - 1)[live].mean())
    assert 0.05 < float(sum(cut)) / GROUPS < 0.95
    assert result.report["clip_share"] == pytest.approx(float(sum(cut)) / GROUPS, rel=1e-12)
    assert result.report["kl"] == pytest.approx(
        float(sum(kl)) / GROUPS, rel=devices.float64_tolerance(1e-10, 0)["rtol"]
    )
    assert result.report["coeff"] != result.report["coeff"]


def test_scores_without_which_the_ratios_make_no_sense_are_asked_for() -> None:
    with pytest.raises(ValueError, match="needs the one-step log-probabilities"):
        gradients(one_step_config("diffu_grpo"), rollouts())
