"""If these fail, training on other views than uniform ones loses their weights, halves or the rollout's order."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dmpo import LinearWDCELoss, WDCELoss, WDDOLoss, importance_weights, sequence_log_prob
from dmpo.kernels import reference
from dmpo.objectives.step import Step
from dmpo.objectives.target import fresh_views
from dmpo.randomness import derive_key
from dmpo.rollouts.batch import Batch
from dmpo.rollouts.buffer import ReplayBuffer
from dmpo.rollouts.masking import WeightedViews, sample_views
from dmpo.rollouts.policy import ReferencePolicy
from dmpo.rollouts.scoring import pass_limits
from tests import devices
from tests.gradient_problems import GROUPS, LENGTH, MASK, PROMPT, SIZE, config, gradients, rollouts
from tests.rollout_problems import a_round, model
from tests.rollout_problems import config as of_round
from tests.small_runs import lines, settings, trainer
from tests.tiny_models import tiny

KEY = derive_key(0, "views", 5)


def ordered(**options: Any) -> Batch:
    batch = rollouts(**options)
    draw = torch.Generator().manual_seed(4)
    return dataclasses.replace(batch, drawn_order=torch.randint(-1, 5, (GROUPS * SIZE, LENGTH), generator=draw).int())


def logits_of(policy: Any, batch: Batch, masks: Tensor) -> tuple[Tensor, Tensor]:
    rows = batch.completions.repeat(len(masks) // len(batch.completions))
    ids = torch.cat([rows.prompt_ids, rows.tokens.masked_fill(masks, MASK)], 1)
    return policy(ids).logits[:, PROMPT:], rows.tokens


def close_to(expected: Tensor, loss: float, got: list[Tensor], policy: Any) -> None:
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-10)
    for ours, theirs in zip(got, [p.grad for p in policy.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("baseline", ["negative", "theta"])
@pytest.mark.parametrize(
    "options",
    [
        {"view_rates": "stratified"},
        {"view_rates": "gauss", "antithetic": False},
        {"view_positions": "confidence"},
        {"view_positions": "confidence", "view_rates": "gauss", "antithetic": False},
    ],
)
def test_gradient_of_wdce_is_that_of_the_loss(options: dict[str, Any], baseline: Any) -> None:
    """Against WDCELoss on the views of `sample_views`, with their weights, in float64."""
    if baseline == "theta" and "view_positions" in options:
        with pytest.raises(ValueError, match="view_positions must be uniform, except for"):
            config(baseline=baseline, **options)
        return
    batch = ordered(truncated=False)
    loss, got = gradients(config(baseline=baseline, micro_batch_size=7, **options), batch)
    names: Any = {name.removeprefix("view_"): value for name, value in options.items()} | {"order": batch.drawn_order}
    drawn: Any = sample_views(batch.completions.eligible, 4, key=KEY, row_ids=batch.row_ids, **names)
    masks, view_weights = drawn if isinstance(drawn, WeightedViews) else (drawn, None)
    policy, cur = tiny().double(), batch.log_prob_cur
    logits, targets = logits_of(policy, batch, masks)
    weights = importance_weights(batch.rewards, batch.log_prob_ref, cur, alpha=0.5)
    of_loss = WDCELoss(baseline, strength=0.7, replicates=4)
    expected = of_loss(logits, targets, masks, weights.positive, weights.negative, cur, view_weights)
    close_to(expected, loss, got, policy)


@pytest.mark.parametrize("loss", ["wddo", "rspo"])
@pytest.mark.parametrize("options", [{"view_rates": "stratified"}, {"view_rates": "gauss", "antithetic": False}])
def test_gradient_of_losses_of_two_halves(options: dict[str, Any], loss: Any) -> None:
    """Each half has views of its own key, and the weights of its own nodes."""
    batch = rollouts(truncated=False)
    value, got = gradients(config(loss=loss, micro_batch_size=5, **options), batch)
    of_half: list[Any] = [
        sample_views(
            batch.completions.eligible,
            2,
            key=derive_key(KEY, "set", index),
            row_ids=batch.row_ids,
            antithetic=options.get("antithetic", True),
            rates=options["view_rates"],
        )
        for index in range(2)
    ]
    masks = torch.cat([views.masks if isinstance(views, WeightedViews) else views for views in of_half])
    view_weights: list[Any] = [views.weights for views in of_half if isinstance(views, WeightedViews)]
    joined = torch.cat(view_weights) if view_weights else None
    policy, ref, cur = tiny().double(), batch.log_prob_ref, batch.log_prob_cur
    logits, targets = logits_of(policy, batch, masks)
    if loss == "wddo":
        weights = importance_weights(batch.rewards, ref, cur, alpha=0.5).positive
        expected = WDDOLoss(replicates=4)(logits, targets, masks, weights, cur, joined)
    else:
        log_probs = logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        of_views = LENGTH * (log_probs * masks).sum(-1) / masks.sum(-1)
        of_views = of_views if joined is None else of_views * joined
        target = ref + batch.rewards / 0.5
        log_z = (target - cur).exp().mean(-1, keepdim=True).log()
        errors = [half.view(2, GROUPS, SIZE).mean(0) - target + log_z for half in of_views.chunk(2)]
        expected = (errors[0] * errors[1]).mean()
    close_to(expected, value, got, policy)


def test_the_weights_of_views_in_losses_and_scores() -> None:
    """WDCE from logits and from hidden states, and the score, against their definitions in float64."""
    batch, policy, count = rollouts(truncated=False), tiny().double(), GROUPS * SIZE
    masks = sample_views(batch.completions.eligible, 4, key=1)
    view_weights = 2 * torch.rand(4 * count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        logits, targets = logits_of(policy, batch, masks)
    log_probs = logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    of_views = (log_probs * masks).sum(-1) / masks.sum(-1)
    weights, arguments = torch.rand(count).double(), (targets, masks)
    plain = -(view_weights.view(4, count) * of_views.view(4, count)).mean(0)
    got = WDCELoss("none", replicates=4)(logits, *arguments, weights, view_weights=view_weights)
    torch.testing.assert_close(got, (weights * plain).sum(), rtol=1e-12, atol=0)
    hidden, head = torch.randn(4 * count, LENGTH, 6).double(), torch.randn(logits.shape[-1], 6).double()
    linear = LinearWDCELoss("none", replicates=4)(hidden, head, *arguments, weights, view_weights=view_weights)
    spread = (weights / 4).repeat(4) * view_weights
    torch.testing.assert_close(linear, reference.linear_weighted_ce(hidden, head, *arguments, spread)[0])
    score = sequence_log_prob(policy, batch.completions, masks, mask_id=MASK, batch_size=5, view_weights=view_weights)
    torch.testing.assert_close(score.double(), -LENGTH * plain, rtol=1e-6, atol=0)
    for bad, error in ((view_weights[1:], ValueError), (view_weights.long(), TypeError)):
        with pytest.raises(error, match="view_weights must"):
            WDCELoss("none", replicates=4)(logits, *arguments, weights, view_weights=bad)
        with pytest.raises(error, match="view_weights must"):
            sequence_log_prob(policy, batch.completions, masks, mask_id=MASK, batch_size=5, view_weights=bad)


def test_a_pass_is_limited_for_views_that_may_mask_everything() -> None:
    for rates, share in (("uniform", 0.9), ("stratified", 1.0)):
        options = config(view_rates=rates)
        assert pass_limits(options, 3).head_rows == round(3 * options.gen_length * share)


def test_a_loss_that_reads_no_weights_is_refused_gauss_nodes() -> None:
    batch, options = rollouts(), config(view_rates="gauss", antithetic=False)
    step = Step(
        accelerator=devices.accelerator(),
        model=tiny(),
        batch=batch,
        config=options,
        index=0,
        finite=torch.ones(GROUPS).bool(),
        mask_id=MASK,
    )
    with pytest.raises(ValueError, match="view_rates 'gauss' have weights of their own: the loss must take them"):
        fresh_views(step)
    same = dataclasses.replace(step, config=config(view_rates="stratified"))
    assert fresh_views(same).any(-1).all()


def test_confidence_without_an_order_is_refused() -> None:
    with pytest.raises(ValueError, match="positions 'confidence' needs order"):
        gradients(config(view_positions="confidence"), rollouts())


def test_a_batch_has_the_order_of_its_rollout_and_the_buffer_keeps_it() -> None:
    policy, options = model(), of_round("topk", view_positions="confidence")
    buffer = ReplayBuffer(2, seed=0)
    rounds = [a_round(policy, ReferencePolicy(policy), options, round_index=index) for index in range(2)]
    for drawn in rounds:
        assert drawn.drawn_order is not None
        assert drawn.drawn_order.max() == options.steps - 1
        buffer.add(drawn)
    total = len(rounds[0].row_ids)
    mixed = buffer.batch(3)
    assert mixed.drawn_order is not None
    assert len(mixed.age.unique()) == 2, "groups of both rounds"
    for row, row_id in enumerate(mixed.row_ids.tolist()):
        index = row_id // total
        of_round_rows = rounds[index]
        assert of_round_rows.drawn_order is not None
        assert torch.equal(mixed.drawn_order[row], of_round_rows.drawn_order[row])
    tensors, values = buffer.state()
    again = ReplayBuffer(2, seed=0)
    again.load_state([tensors], values, rank=0, world=1, device="cpu")
    restored = again.batch(3).drawn_order
    assert restored is not None
    assert torch.equal(restored, mixed.drawn_order)
    assert a_round(policy, ReferencePolicy(policy), of_round("topk")).drawn_order is None, "nobody reads it"


def test_a_run_by_confidence_resumes_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmpo.trainer.plot_run", lambda *arguments: None)
    options: dict[str, Any] = {"view_positions": "confidence", "view_rates": "stratified", "buffer_rounds": 2}
    options |= {"gradient_steps": 2, "save_steps": 1, "eval_steps": 0, "eval_prompts": 1, "learning_rate": 1e-2}
    trainer(settings(tmp_path / "whole", max_steps=4, **options)).train()
    trainer(settings(tmp_path / "stopped", max_steps=3, **options)).train()
    trainer(settings(tmp_path / "stopped", max_steps=4, resume=True, **options)).train()
    assert lines(tmp_path / "stopped") == lines(tmp_path / "whole")


def test_each_kind_of_views_changes_the_gradient() -> None:
    batch = ordered()
    kinds: list[dict[str, Any]] = [
        {},
        {"view_rates": "stratified"},
        {"view_rates": "gauss", "antithetic": False},
        {"view_positions": "confidence"},
    ]
    losses = {gradients(config(**kind), batch)[0] for kind in kinds}
    assert len(losses) == len(kinds)
    assert gradients(config(), batch)[0] == gradients(config(), rollouts())[0], "uniform views read no order"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"view_rates": "gauss"}, "antithetic must be false where view_rates is gauss"),
        (
            {"view_rates": "stratified", "mask_rate_min": 0.2},
            "mask_rate_min must be left at 0.1 where view_rates is strat",
        ),
        ({"view_positions": "confidence", "loss": "tb"}, "view_positions must be uniform, except for loss 'wdce'"),
        ({"view_positions": "confidence", "loss": "wddo"}, "view_positions must be uniform, except for loss 'wdce'"),
        ({"view_positions": "confidence", "loss": "wd1"}, "view_positions must be uniform, except for loss 'wdce'"),
        ({"view_positions": "confidence", "baseline": "theta"}, "view_positions must be uniform, except for loss"),
        ({"view_rates": "strat"}, "view_rates"),
    ],
)
def test_keys_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**options)
