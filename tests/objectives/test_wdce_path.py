"""If these fail, the loss of the path has another gradient, or a baseline moves where it leads."""

from __future__ import annotations

import dataclasses
from itertools import permutations, product
from typing import Any

import pytest
import torch
from torch import Tensor

from dmpo.models.masked_lm import Head
from dmpo.objectives import OBJECTIVES
from dmpo.objectives.gradient import accumulate_gradient
from dmpo.rollouts.batch import Batch, Completions
from dmpo.rollouts.buffer import ReplayBuffer
from dmpo.rollouts.likelihood import ordered_log_probs
from dmpo.rollouts.policy import ReferencePolicy
from tests import devices
from tests.gradient_problems import GROUPS, LENGTH, MASK, SIZE, gradients, rollouts
from tests.gradient_problems import config as any_config
from tests.rollout_problems import MASK as ROLLOUT_MASK
from tests.rollout_problems import a_round, model
from tests.rollout_problems import config as rollout_config
from tests.tiny_models import tiny

pytestmark = pytest.mark.usefixtures("device")
KEYS: dict[str, Any] = {"loss": "wdce_path", "decoder": "random_order", "temperature": 1.0, "early_stop": False}


def config(**changes: Any) -> Any:
    return any_config(**{**KEYS, **changes})


def path_log_probs(model: Any, completions: Completions, order: Tensor) -> Tensor:
    """log p of each token in the order of its path, with gradient [B, L]; a forward for each step."""
    prompt, columns = completions.prompt_ids.shape[1], []
    for step in range(order.shape[1]):
        canvas = completions.tokens.masked_fill(order >= step, MASK)
        logits = model(torch.cat([completions.prompt_ids, canvas], 1)).logits[:, prompt:]
        of_tokens = logits.log_softmax(-1).gather(-1, completions.tokens.unsqueeze(-1)).squeeze(-1)
        columns.append((of_tokens * (order == step)).sum(-1))
    return torch.stack(columns, 1)


@pytest.mark.parametrize("micro_batch_size", [0, 5])
@pytest.mark.parametrize("baseline", ["none", "mean", "negative", "theta"])
def test_the_gradient_is_that_of_the_formula(baseline: str, micro_batch_size: int) -> None:
    """Against autograd over every step of the paths, in float64."""
    batch, draw = rollouts(truncated=False), torch.Generator().manual_seed(4)
    order = torch.rand(GROUPS * SIZE, LENGTH, generator=draw).argsort(1)
    batch = dataclasses.replace(batch, drawn_order=order)
    settings = config(baseline=baseline, replicates=LENGTH, micro_batch_size=micro_batch_size, rollout_batch_size=5)
    value, got = gradients(settings, batch)
    model = tiny().double()
    of_paths = path_log_probs(model, batch.completions, order)
    exponent = batch.log_prob_ref - batch.log_prob_cur
    a = (exponent + batch.rewards / 0.5).softmax(-1)
    theta = ordered_log_probs(model, batch.completions, order, mask_id=MASK, batch_size=5).sum(-1)  # in float32
    b = {
        "none": torch.zeros_like(a),
        "mean": torch.full_like(a, 1 / SIZE),
        "negative": (exponent - batch.rewards / 0.5).softmax(-1),
        "theta": (theta.view_as(a).double() - batch.log_prob_cur).softmax(-1),
    }[baseline]
    expected = -((a - 0.7 * b) * of_paths.mean(-1).view_as(a)).sum() / GROUPS
    expected.backward()
    close = devices.float64_tolerance(1e-10, 1e-12)
    assert value == pytest.approx(expected.item(), rel=close["rtol"])
    for ours, theirs in zip(got, [p.grad for p in model.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(ours, theirs, **close)


@pytest.mark.parametrize("baseline", ["none", "theta"])
def test_a_bad_completion_costs_its_group(baseline: str) -> None:
    batch, draw = rollouts(truncated=False), torch.Generator().manual_seed(4)
    order = torch.rand(GROUPS * SIZE, LENGTH, generator=draw).argsort(1)
    batch = dataclasses.replace(batch, drawn_order=order)
    shared: dict[str, Any] = {name: value[:2] for name, value in batch.shared().items()}
    others = dataclasses.replace(
        batch,
        completions=batch.completions[slice(2 * SIZE)],
        row_ids=batch.row_ids[: 2 * SIZE],
        drawn_order=order[: 2 * SIZE],
        **shared,
    )
    batch.log_prob_ref[2, 1] = -torch.inf
    settings = config(baseline=baseline, replicates=2)
    (value, got), (alone, expected) = gradients(settings, batch), gradients(settings, others)
    assert value == pytest.approx(alone * 2 / 3, rel=devices.float64_tolerance(1e-10, 0)["rtol"])
    for ours, theirs in zip(got, expected, strict=True):
        # The model's norms are float32 inside, where a gradient times 2/3 is rounded.
        assert (ours - 2 / 3 * theirs).abs().max() < 16 * torch.finfo(torch.float32).eps * theirs.abs().max()


def every_path(vocab: int, length: int) -> tuple[Completions, Tensor]:
    """All completions without the mask token in all orders, after one prompt."""
    contents = [token for token in range(vocab) if token != MASK]
    pairs = [(c, o) for c in product(contents, repeat=length) for o in permutations(range(length))]
    tokens, order = (torch.tensor(rows) for rows in zip(*pairs, strict=True))
    prompts = torch.full((len(tokens), 2), contents[0])
    return Completions(prompts, torch.ones_like(prompts).bool(), tokens, torch.ones_like(tokens).bool()), order


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_weights_that_are_the_policys_own_move_nothing(shift: float) -> None:
    """The sum over all paths of p(path)·∇log p(path) is 0, by enumeration; weights of another policy do move it."""
    vocab, length = 6, 2
    completions, order = every_path(vocab, length)
    model: Any = tiny(vocab_size=vocab)
    head = Head(torch.nn.Linear(model.lm_head.in_features, vocab, bias=True))
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.bias.copy_(torch.arange(vocab) * 0.3)
        head.bias[MASK] = -1e4  # decoding never draws it
    model.lm_head = head.to(devices.current())
    model = model.double()
    with torch.no_grad():
        log_p = path_log_probs(model, completions, order).sum(-1)
    torch.testing.assert_close(log_p.exp().sum() / 2, torch.ones_like(log_p[0]))  # of each order 1
    count, draw = len(log_p), torch.Generator().manual_seed(0)
    batch = Batch(
        completions=completions,
        row_ids=torch.arange(count),
        rewards=shift * torch.randn(1, count, generator=draw, dtype=torch.float64),
        log_prob_ref=log_p.view(1, -1),
        log_prob_cur=torch.zeros(1, count, dtype=torch.float64),
        age=torch.zeros(1).long(),
        report={},
        drawn_order=order,
    )
    settings = config(baseline="none", replicates=length, gen_length=length, block_length=length, steps=length)
    largest = gradient_of(model, batch, settings)
    assert largest < 1e-6 if shift == 0.0 else largest > 1e-3, largest  # the model's norms are float32 inside


def gradient_of(model: Any, batch: Batch, settings: Any) -> float:
    accumulate_gradient(devices.accelerator(), model, model, batch, settings, step=0)
    return max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None)


def test_a_round_is_scored_by_its_paths_and_so_is_a_kept_one() -> None:
    policy, options = model(), rollout_config("random_order", loss="wdce_path", buffer_min_ess=0.5, buffer_rounds=2)
    reference = ReferencePolicy(policy, refreshable=True)
    start = a_round(policy, reference, options)
    order = start.drawn_order
    assert order is not None
    order = order.long()
    assert torch.equal(order.sort(-1).values, torch.arange(8).expand_as(order))
    expected = ordered_log_probs(policy, start.completions, order, mask_id=ROLLOUT_MASK, batch_size=8).sum(-1)
    torch.testing.assert_close(start.log_prob_cur, expected.view(4, 4))
    assert torch.equal(start.log_prob_cur, start.log_prob_ref)
    buffer, accelerator = ReplayBuffer(2, seed=0), devices.accelerator()
    buffer.add(start)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    now = ordered_log_probs(policy, start.completions, order, mask_id=ROLLOUT_MASK, batch_size=8).sum(-1).view(4, 4)
    buffer.replace_reference(accelerator, policy, OBJECTIVES["wdce_path"], options)
    torch.testing.assert_close(buffer.rounds[0].log_prob_ref, now)
    buffer.add(a_round(policy, reference, options, 2))
    buffer.drop_stale(accelerator, policy, OBJECTIVES["wdce_path"], options)
    drift = (now - start.log_prob_cur).softmax(-1)
    assert torch.equal(buffer.alive[0], 1 / (4 * drift.square().sum(-1)) >= 0.5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("decoder", "topk"),
        ("temperature", 0.5),
        ("early_stop", True),
        ("cfg_scale", 1.0),
        ("suffix", 8),
        ("logits_eos_inf", True),
        ("replicates", 300),
    ],
)
def test_rollouts_from_other_conditionals_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{key} .*wdce_path"):
        config(**{key: value})
