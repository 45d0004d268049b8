"""If these fail, the buffer hands out other completions than it was given, or keeps what it should drop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import Accelerator

from dmpo.objectives import OBJECTIVES
from dmpo.rollouts.batch import Batch, Completions
from dmpo.rollouts.buffer import ReplayBuffer
from dmpo.rollouts.policy import ReferencePolicy
from dmpo.rollouts.scoring import score_log_prob
from tests.rollout_problems import a_round, config, model

GROUPS, SIZE, LENGTH = 5, 3, 4


def rounds(index: int, rows: slice = slice(None), width: int = 2) -> Batch:
    """Round `index`: every value says where it is from; of its rows only the rows of a rank."""
    ids = index * GROUPS * SIZE + torch.arange(GROUPS * SIZE)
    local = ids[rows]
    completions = Completions(
        local.unsqueeze(1).repeat(1, width),
        torch.ones(len(local), width).bool(),
        local.unsqueeze(1).repeat(1, LENGTH),
        torch.ones(len(local), LENGTH).bool(),
    )
    rewards, log_prob_ref, log_prob_cur = ((factor * ids).double().view(GROUPS, SIZE) for factor in (1, 10, 100))
    return Batch(
        completions=completions,
        row_ids=local,
        rewards=rewards,
        log_prob_ref=log_prob_ref,
        log_prob_cur=log_prob_cur,
        age=torch.zeros(GROUPS).long(),
        report={"reward": float(index)},
        scores={"of_tokens": local.double().view(-1, 1, 1, 1).repeat(1, 2, 3, LENGTH), "of_rows": -local.double()},
    )


def test_one_round_is_handed_out_whole() -> None:
    buffer = ReplayBuffer(1, seed=0)
    for index in range(3):
        newest = rounds(index)
        buffer.add(newest)
        assert buffer.batch(index) is newest


def test_a_step_fills_each_slot_from_some_round() -> None:
    buffer = ReplayBuffer(3, seed=0)
    widths = (4, 2, 3, 2)
    for index, width in enumerate(widths):
        buffer.add(rounds(index, width=width))
    seen = torch.zeros(GROUPS, 3)
    for step in range(600):
        batch = buffer.batch(step)
        ids = batch.rewards.long()
        assert torch.equal(batch.log_prob_cur, 100 * batch.rewards)
        assert torch.equal(batch.log_prob_ref, 10 * batch.rewards)
        assert torch.equal(batch.row_ids, ids.flatten())
        assert torch.equal(batch.completions.tokens[:, 0], batch.row_ids)
        assert batch.scores.keys() == {"of_tokens", "of_rows"}
        assert batch.scores["of_tokens"].shape == (GROUPS * SIZE, 2, 3, LENGTH)
        assert torch.equal(batch.scores["of_tokens"][:, 1, 2, 3], batch.row_ids.double())
        assert torch.equal(batch.scores["of_rows"], -batch.row_ids.double())
        mask, prompts = batch.completions.prompt_mask, batch.completions.prompt_ids
        assert torch.equal(prompts[:, -1], batch.row_ids)
        of_round = ids[:, 0] // (GROUPS * SIZE)
        assert torch.equal(3 - of_round, batch.age)
        assert torch.equal(mask.sum(-1), torch.tensor(widths)[of_round].repeat_interleave(SIZE))
        assert batch.report == {"reward": 3.0}, "the report of the newest round"
        seen[torch.arange(GROUPS), of_round - 1] += 1
    # Each slot drew each of three rounds with probability 1/3: chi-square, 2 degrees of freedom, p = 1e-4 a slot.
    assert ((seen - 200) ** 2 / 200).sum(-1).max() < 18.4
    assert torch.equal(buffer.batch(7).row_ids, buffer.batch(7).row_ids)


def test_ranks_draw_the_same_groups() -> None:
    whole, of_ranks = ReplayBuffer(2, seed=4), [ReplayBuffer(2, seed=4) for _ in range(2)]
    cuts = [slice(0, 7), slice(7, 15)]  # amid a group
    for index in range(2):
        whole.add(rounds(index))
        for buffer, cut in zip(of_ranks, cuts, strict=True):
            buffer.add(rounds(index, cut))
    for step in range(20):
        one, two = whole.batch(step), [buffer.batch(step) for buffer in of_ranks]
        assert torch.equal(torch.cat([b.row_ids for b in two]), one.row_ids)
        assert all(torch.equal(b.rewards, one.rewards) for b in two)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_checkpoint_is_taken_up_by_any_number_of_ranks(world: int) -> None:
    whole = ReplayBuffer(2, seed=4)
    saved = [ReplayBuffer(2, seed=4) for _ in range(2)]
    for index, width in enumerate((2, 5)):
        whole.add(rounds(index, width=width))
        for buffer, cut in zip(saved, (slice(0, 7), slice(7, 15)), strict=True):
            buffer.add(rounds(index, cut, width))
    for buffer in (whole, *saved):
        buffer.alive[0][1], buffer.dropped = False, 1
    states = [buffer.state() for buffer in saved]
    loaded = [ReplayBuffer(2, seed=4) for _ in range(world)]
    for rank, buffer in enumerate(loaded):
        buffer.load_state([tensors for tensors, _ in states], states[0][1], rank=rank, world=world, device="cpu")
    for step in range(6):
        batches, expected = [buffer.batch(step) for buffer in loaded], whole.batch(step)
        assert torch.equal(torch.cat([b.completions.prompt_ids for b in batches]), expected.completions.prompt_ids)
        assert torch.equal(torch.cat([b.row_ids for b in batches]), expected.row_ids)
        for name, scores in expected.scores.items():
            assert torch.equal(torch.cat([b.scores[name] for b in batches]), scores)
        assert all(torch.equal(b.age, expected.age) for b in batches)
        assert loaded[0].report(batches[0]) == whole.report(expected)
        assert expected.age[1] == 0, "the older group of slot 1 was dropped"


def test_what_the_policy_has_left_behind_is_dropped() -> None:
    policy, options = model(), config("topk", buffer_rounds=3, buffer_min_ess=0.5)
    reference, buffer = ReferencePolicy(policy), ReplayBuffer(3, seed=0)
    accelerator = Accelerator(cpu=True)
    for index in range(2):
        buffer.add(a_round(policy, reference, options, index))
        buffer.drop_stale(accelerator, policy, OBJECTIVES["wdce"], options)
    assert buffer.dropped == 0, "the policy has not moved"
    moved = model()
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    buffer.add(a_round(moved, reference, options, 2))
    buffer.drop_stale(accelerator, moved, OBJECTIVES["wdce"], options)
    assert buffer.dropped > 0
    for old, alive in zip(buffer.rounds[:2], buffer.alive[:2], strict=True):
        now = score_log_prob(moved, old.completions, old.row_ids, options).view(4, 4)
        w = (now - old.log_prob_cur).softmax(-1)
        assert torch.equal(alive, 1 / (4 * (w * w).sum(-1)) >= 0.5)
    assert bool(buffer.alive[2].all()), "the newest round is whole"
    assert buffer.report(buffer.batch(0))["buffer_groups"] == 12 - buffer.dropped


@pytest.mark.parametrize("lora", [False, True])
def test_a_refreshed_reference_is_the_policy(lora: bool) -> None:
    from dmpo.models.lora import add_lora

    policy: Any = add_lora(model(), rank=2, alpha=8, dropout=0.0) if lora else model()
    options = config("topk")
    reference, buffer = ReferencePolicy(policy, refreshable=True), ReplayBuffer(2, seed=0)
    start = a_round(policy, reference, options)
    buffer.add(start)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    rows = (start.completions, start.row_ids, options)
    now = score_log_prob(policy, *rows).view(4, 4)
    assert not torch.equal(now, start.log_prob_ref)
    with reference.active() as old:
        assert torch.equal(score_log_prob(old, *rows).view(4, 4), start.log_prob_ref)
    reference.refresh()
    buffer.replace_reference(Accelerator(cpu=True), policy, OBJECTIVES["wdce"], options)
    with reference.active() as new:
        assert torch.equal(score_log_prob(new, *rows).view(4, 4), now)
    assert torch.equal(buffer.batch(0).log_prob_ref, now)
    assert torch.equal(buffer.batch(0).log_prob_cur, start.log_prob_cur)
    assert all(torch.equal(p, before[name]) for name, p in policy.named_parameters()), "the policy came back whole"
    again = ReferencePolicy(policy, refreshable=True)
    again.load_state(reference.state())
    with pytest.raises(ValueError, match="another model"):
        again.load_state({})
