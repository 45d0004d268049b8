"""If these fail, a policy unmasks other tokens than its published rule says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmpo import generate
from dmpo.decoding.policies import BoundedRisk, EntropyBound, Hierarchy, Policy, Row, Schedule, Step
from tests import tiny_models
from tests.tiny_models import tokens

MASK = 99
Block = tuple[list[bool], list[float]]  # which positions are masks, and the confidence of each position


def blocks(values: st.SearchStrategy[float]) -> st.SearchStrategy[Block]:
    """A block with at least one mask."""
    some = st.lists(st.tuples(st.booleans(), values), min_size=1, max_size=12).filter(lambda b: any(m for m, _ in b))
    return some.map(lambda block: ([mask for mask, _ in block], [value for _, value in block]))


# Few values make ties; sums of quarters are exact.
CONFIDENCES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.floats(0, 1, width=32))
SHARES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.floats(0, 1))


def unmasked(policy: Policy, block: Block, step: int = 0) -> set[int]:
    """The positions that a policy unmasks, in a batch whose other row is another step with no confidence at all."""
    masked, confidence = block
    window = torch.tensor([[MASK if mask else 1 for mask in masked], [MASK] * len(masked)])
    scores = torch.tensor([confidence, [0.0] * len(masked)], dtype=torch.float32)
    rows = [Row(0, sum(masked), step=step), Row(1, len(masked), step=0)]
    candidates = torch.arange(len(masked)).expand(2, -1) + 10
    before = window.clone()
    moved, revoked = policy(Step(rows, window, candidates, scores, None, torch.zeros(2).int(), MASK))
    changed = window != before
    assert revoked is None
    assert moved.tolist() == changed.sum(1).tolist()
    assert (moved >= 1).all(), "a step without progress would be repeated for ever"
    assert torch.equal(window[changed], candidates[changed])
    return set(changed[0].nonzero().flatten().tolist())


def by_rank(block: Block) -> list[int]:
    masked, confidence = block
    return sorted((j for j, mask in enumerate(masked) if mask), key=lambda j: (-confidence[j], j))


def risk(block: Block, tau: float, least: int) -> set[int]:
    """SLIM-RL, arXiv 2607.00208, with the published budget factor m = 1."""
    order, spent, count = by_rank(block), 0.0, 0
    for j in order:
        spent += 1 - block[1][j]
        if block[1][j] <= tau or spent > 1 - tau:
            break
        count += 1
    return set(order[: max(count, least)])


def entropy(block: Block, bound: float) -> set[int]:
    """EB-Sampler, arXiv 2505.24857; the block has entropies with a minus."""
    order, total, count = by_rank(block), 0.0, 0
    for j in order:
        total += -block[1][j]
        if total - -block[1][j] > bound:
            break
        count += 1
    return set(order[:count])


def hierarchy(block: Block, threshold: float | None, low: float) -> set[int]:
    """dInfer, arXiv 2510.08666."""
    masked, confidence = block
    chosen, run = {by_rank(block)[0]}, list[int]()
    for j, mask in enumerate([*masked, False]):
        if mask:
            run.append(j)
        elif run:
            best = max(run, key=lambda j: (confidence[j], -j))
            chosen |= {best} if confidence[best] > low else set()
            run = []
    return chosen | {j for j in by_rank(block) if threshold is not None and confidence[j] > threshold}


@settings(max_examples=200, deadline=None)
@given(block=blocks(CONFIDENCES), tau=SHARES, steps=st.integers(1, 12), step=st.integers(0, 3))
def test_bounded_risk(block: Block, tau: float, steps: int, step: int) -> None:
    schedule = Schedule(len(block[0]), min(steps, len(block[0])))
    chosen = unmasked(BoundedRisk(tau, schedule), block, step)
    least = schedule.count(Row(0, sum(block[0]), step=step))
    assert chosen == risk(block, tau, least)
    assert len(chosen) <= least or sum(1 - block[1][j] for j in chosen) <= 1 - tau


# Multiples of 1/64, whose sums and differences are exact.
ENTROPIES = st.integers(0, 256).map(lambda n: -n / 64)


@settings(max_examples=200, deadline=None)
@given(block=blocks(ENTROPIES), bound=st.integers(0, 512).map(lambda n: n / 64))
def test_entropy_bound(block: Block, bound: float) -> None:
    chosen = unmasked(EntropyBound(bound), block)
    assert chosen == entropy(block, bound)
    entropies = [-block[1][j] for j in chosen]
    assert sum(entropies) - max(entropies) <= bound


@settings(max_examples=200, deadline=None)
@given(block=blocks(CONFIDENCES), threshold=st.none() | SHARES, low=SHARES)
def test_hierarchy(block: Block, threshold: float | None, low: float) -> None:
    assert unmasked(Hierarchy(threshold, low), block) == hierarchy(block, threshold, low)


@pytest.mark.parametrize(
    "policy", [BoundedRisk(0.5, Schedule(4, 4)), Hierarchy(0.5, 0.4)], ids=lambda p: type(p).__name__
)
def test_what_is_no_number_ranks_last(policy: Policy) -> None:
    assert unmasked(policy, ([True] * 4, [math.nan, 0.1, -math.inf, math.nan])) == {1}
    assert unmasked(policy, ([True] * 3 + [False], [math.nan, math.nan, -math.inf, 1.0])) == {0}


def decoded(**options: Any) -> Any:
    model = tiny_models.tiny(init_std=0.7, eos_id=[2, 5])
    shape: dict[str, Any] = {"gen_length": 12, "block_length": 12, "steps": 12, "temperature": 1.0}
    return generate(model, tokens(24, 6), **shape | options)


@pytest.mark.parametrize("decoder", ["topk", "dual_cache", "wino", "random_order", "risk", "entropy", "hierarchy"])
def test_eos_is_never_drawn(decoder: str) -> None:
    """Of the ids 2 and 5 the first."""
    plain, never = (decoded(decoder=decoder, logits_eos_inf=flag).sequences[:, 6:] for flag in (False, True))
    assert (plain == 2).any()
    assert not (never == 2).any()
    assert (never == 5).any()


@pytest.mark.parametrize("remasking", ["low_confidence", "random"])
def test_eos_is_ranked_last(remasking: str) -> None:
    """Both ids are drawn as without the flag. The first of two steps unmasks the best half, and EOS after the rest."""
    plain = decoded(decoder="topk", steps=1, remasking=remasking)
    all_at_once = decoded(decoder="topk", steps=1, remasking=remasking, confidence_eos_eot_inf=True)
    assert torch.equal(plain.sequences, all_at_once.sequences)
    candidates = plain.sequences[:, 6:]
    eos = (candidates == 2) | (candidates == 5)
    made = decoded(decoder="topk", steps=2, remasking=remasking, confidence_eos_eot_inf=True)
    first = made.order == 0
    assert torch.equal(made.sequences[:, 6:][first], candidates[first])
    rows = eos.sum(1) <= 6
    assert rows.any()
    assert not (first & eos)[rows].any(), "an EOS came before another token"
    if remasking == "low_confidence":
        for row in range(24):
            order = sorted(range(12), key=lambda j: (bool(eos[row, j]), -float(plain.log_probs[row, j])))
            best = {j for j in order[:6] if not eos[row, j]}
            assert best <= set(first[row].nonzero().flatten().tolist())


def test_entropy_decodes_the_positions_of_least_entropy() -> None:
    """The first step, against entropies of the whole model in float64."""
    model = tiny_models.tiny(init_std=0.7)
    prompts, bound = tokens(8, 6), 2.0
    canvas = torch.cat([prompts, torch.full((8, 12), 3)], 1)
    with torch.no_grad():
        logits = model(canvas).logits[:, 6:].double()
    logits[..., 3] = -math.inf
    entropies = torch.special.entr(logits.softmax(-1)).sum(-1)
    made = generate(
        model,
        prompts,
        decoder="entropy",
        entropy_bound=bound,
        gen_length=12,
        block_length=12,
        steps=12,
        temperature=1.0,
    )
    sizes = set()
    for row in range(8):
        wanted = entropy(([True] * 12, (-entropies[row]).tolist()), bound)
        assert set((made.order[row] == 0).nonzero().flatten().tolist()) == wanted
        sizes.add(len(wanted))
    assert max(sizes) > 1
    assert made.forwards < 12


def test_eos_flags_need_an_eos() -> None:
    model = tiny_models.tiny(eos_id=None)
    for flag in ("logits_eos_inf", "confidence_eos_eot_inf"):
        options: dict[str, Any] = {"decoder": "topk", "gen_length": 4, "block_length": 4, "steps": 4, flag: True}
        with pytest.raises(ValueError, match=f"{flag} needs eos_id"):
            generate(model, tokens(1, 4), **options)
