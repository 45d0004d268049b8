"""If these fail, a round keeps groups that teach nothing, draws others than it should, or misreports what it drew."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from dmpo.pretrain import character_tokenizer
from dmpo.rollouts.batch import Batch
from dmpo.rollouts.buffer import ReplayBuffer
from dmpo.rollouts.dynamic_sampling import rewards_differ
from dmpo.rollouts.policy import ReferencePolicy
from tests.rollout_problems import a_round, config, model
from tests.small_runs import CountOnes

FURTHER, ROUND = 2, 1


class PromptsOfSeveralLengths(CountOnes):
    def row(self, split: str, index: int) -> dict[str, Any]:
        return {"prompt": "1234"[: 1 + index % 4], "digit": index}


def begins_with_two(completion: str) -> float:
    return float(completion[:1] == "2")


def twice(completion: str) -> float | None:
    """Raises on some completions, and does not apply to others."""
    if "44" in completion:
        raise KeyError("44")
    return None if completion[-1:] == "1" else 2 * begins_with_two(completion)


def rounds(reward: Any, *, further: int = FURTHER, **changes: Any) -> tuple[Batch, list[Batch]]:
    """A round that draws further prompts, and the rounds whose groups it may have, from a run that draws none."""
    policy, task = model(), PromptsOfSeveralLengths()
    reference = ReferencePolicy(policy)
    sampled = config("topk", skip_equal_rewards=True, resample_prompts=further, **changes)
    ours = a_round(policy, reference, sampled, ROUND, task=task, reward=reward)
    plain, first = config("topk", **changes), ROUND * (1 + further)
    others = [
        a_round(policy, reference, plain, first + attempt, task=task, reward=reward) for attempt in range(1 + further)
    ]
    return ours, others


@pytest.fixture(scope="module")
def of_two_rewards() -> tuple[Batch, list[Batch]]:
    return rounds([begins_with_two, twice], num_prompts=6)


def drawn_groups(others: list[Batch]) -> list[list[int]]:
    """By their definition: for each group of the round, the attempts that draw it, up to the first that differs."""
    differ = [[len(set(group)) > 1 for group in batch.rewards.tolist()] for batch in others]
    attempts = range(len(others))
    return [
        list(attempts[: 1 + next((attempt for attempt in attempts if differ[attempt][slot]), len(others) - 1)])
        for slot in range(len(differ[0]))
    ]


def test_a_group_gives_way_until_its_rewards_differ(of_two_rewards: tuple[Batch, list[Batch]]) -> None:
    """Prompts of several lengths, two rewards of which one fails at times; against whole rounds without resampling."""
    ours, others = of_two_rewards
    drawn = drawn_groups(others)
    kept = [attempts[-1] for attempts in drawn]
    assert set(kept) == {0, 1, 2}, "every case"
    assert not rewards_differ(ours.rewards).all(), "and a group that never differed"
    tokenizer = character_tokenizer()
    for slot, attempt in enumerate(kept):
        rows, source = slice(4 * slot, 4 * slot + 4), others[attempt]
        assert torch.equal(ours.row_ids[rows], source.row_ids[rows])
        assert torch.equal(ours.completions.tokens[rows], source.completions.tokens[rows])
        assert torch.equal(ours.rewards[slot], source.rewards[slot])
        torch.testing.assert_close(ours.log_prob_cur[slot], source.log_prob_cur[slot], rtol=1e-5, atol=1e-5)
        for row in range(4 * slot, 4 * slot + 4):
            prompts = [b.completions.prompt_ids[row][b.completions.prompt_mask[row]] for b in (ours, source)]
            assert torch.equal(*prompts)
            assert ours.scored is not None
            assert source.scored is not None
            assert ours.scored.details(row) == source.scored.details(row)
            text = tokenizer.decode(ours.completions.tokens[row], skip_special_tokens=True)
            assert ("failure" in ours.scored.details(row)) == ("44" in text)
    assert len(ours.row_ids.unique()) == 24
    assert torch.equal(ours.row_ids % 24, torch.arange(24)), "as the buffer reads them"
    assert ours.drawn is not None
    assert torch.equal(ours.drawn.tokens, ours.completions.tokens[ours.drawn.rows])


def test_the_report_is_of_all_that_was_drawn(of_two_rewards: tuple[Batch, list[Batch]]) -> None:
    ours, others = of_two_rewards
    pairs = [(slot, attempt) for slot, attempts in enumerate(drawn_groups(others)) for attempt in attempts]
    rewards = torch.stack([others[attempt].rewards[slot] for slot, attempt in pairs]).double()
    scores = [others[attempt].scored for _, attempt in pairs]
    rows = [(scored, 4 * slot + row) for (slot, _), scored in zip(pairs, scores, strict=True) for row in range(4)]
    parts = [scored.parts["twice"][row] for scored, row in rows if scored is not None]
    failed = [scored is not None and row in {failure.row for failure in scored.failures} for scored, row in rows]
    report = ours.report
    assert report["prompts_resampled"] == len(pairs) - 6 > 0
    assert report["reward"] == pytest.approx(float(rewards.mean()))
    assert report["reward_std_in_group"] == pytest.approx(float(rewards.std(-1).mean()))
    assert report["equal_rewards"] == pytest.approx(sum(len(set(g)) == 1 for g in rewards.tolist()) / len(pairs))
    applying = [value for value in parts if not math.isnan(value)]
    assert report["reward/twice"] == pytest.approx(sum(applying) / len(applying))
    assert report["reward_failures"] == sum(failed) > 0
    assert report["tokens_per_forward"] * report["row_forwards"] == pytest.approx(len(rows) * 8)
    texts = [others[attempt].completions.tokens[4 * slot : 4 * slot + 4] for slot, attempt in pairs]
    assert report["distinct_in_group"] == sum(len(group.unique(dim=0)) for group in texts) / len(rows)
    assert report["log_ratio"] == 0


def test_a_round_without_equal_rewards_is_left_alone() -> None:
    def hashed(completions: list[str], **columns: Any) -> list[float]:
        return [sum((i + 1) * ord(c) for i, c in enumerate(text)) % 97 / 97 for text in completions]

    ours, others = rounds(hashed)
    assert ours.report == others[0].report | {"prompts_resampled": 0}
    assert ours.report["equal_rewards"] == 0
    assert torch.equal(ours.completions.tokens, others[0].completions.tokens)


def test_the_draws_are_bounded() -> None:
    def constant(completions: list[str], **columns: Any) -> list[float]:
        return [0.1] * len(completions)

    ours, others = rounds(constant)
    assert ours.report["prompts_resampled"] == FURTHER * 4
    assert ours.report["equal_rewards"] == 1
    assert torch.equal(ours.completions.tokens, others[-1].completions.tokens)


def test_which_rewards_differ() -> None:
    """In float32, as a batch has them: sums of several rewards may differ by their rounding."""
    rewards = torch.tensor([[0.1 + 0.2, 0.3, 0.3], [0.3, 0.3, 0.3001], [1.0, 1.0, math.nan], [-0.0, 0.0, 0.0]])
    assert rewards_differ(rewards.double()).tolist() == [False, True, True, False]
    exact = torch.tensor([[0.1 + 0.2, 0.3]], dtype=torch.float64)
    assert exact[0, 0] != exact[0, 1]
    assert not rewards_differ(exact).any()


def test_the_buffer_draws_from_groups_that_teach() -> None:
    policy = model()
    reference, options = ReferencePolicy(policy), config("topk", buffer_rounds=2)
    old, new = (a_round(policy, reference, options, index) for index in (0, 1))
    for batch, groups in ((old, [0, 3]), (new, [1, 3])):
        batch.rewards[:] = torch.arange(4.0)
        batch.rewards[groups] = 0.5
    buffer = ReplayBuffer(2, seed=0, skip_equal_rewards=True)
    buffer.add(old)
    buffer.add(new)
    ages = torch.stack([buffer.batch(step).age for step in range(40)])
    assert ages[:, 0].eq(0).all(), "the older group 0 teaches nothing"
    assert ages[:, 1].eq(1).all(), "the newer group 1 teaches nothing"
    assert len(ages[:, 2].unique()) == 2
    assert ages[:, 3].eq(0).all(), "neither does: the newer one, which the step leaves out"
    assert buffer.report(buffer.batch(0))["buffer_groups"] == 4
