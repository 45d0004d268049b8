"""If these fail, stratified views or Gauss nodes are biased, or views by confidence are not what the rollout saw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations, product
from typing import Any

import pytest
import torch
from torch import Tensor

from dmpo.rollouts import mask_draws
from dmpo.rollouts.mask_draws import PHASES
from dmpo.rollouts.masking import sample_views, views_of
from tests.gradient_problems import config
from tests.view_worlds import World

NODES = {  # of [0, 1], and their weights
    1: ((0.5,), (1.0,)),
    2: ((0.5 - 1 / math.sqrt(12), 0.5 + 1 / math.sqrt(12)), (0.5, 0.5)),
    3: ((0.5 - math.sqrt(0.15), 0.5, 0.5 + math.sqrt(0.15)), (5 / 18, 8 / 18, 5 / 18)),
}


def with_draws(monkeypatch: pytest.MonkeyPatch, **draws: Tensor) -> int:
    """Make the random numbers of each purpose these, one row a case; returns the number of cases."""
    monkeypatch.setattr(mask_draws, "derive_key", lambda key, purpose, *_: purpose)
    monkeypatch.setattr(mask_draws, "uniforms", lambda purpose, ids, columns: draws[purpose][:, :columns])
    return len(draws["view"])


def with_hole(values: Sequence[float]) -> list[float]:
    return [values[0], 0.5, *values[1:]]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    ("replicates", "antithetic"), [(1, False), (2, False), (3, False), (4, False), (2, True), (4, True), (6, True)]
)
def test_stratified_views_are_unbiased(
    n: int, replicates: int, antithetic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over all starts, places in a stratum (n cells, within which m is constant) and orders of the positions."""
    world = World(n)
    cases = list(product(range(replicates), range(n), permutations(range(n))))
    starts = torch.tensor([[(start + 0.5) / replicates] for start, _, _ in cases]).double()
    places = torch.tensor([[(place + 0.5) / n] for _, place, _ in cases]).double()
    orders = torch.tensor([with_hole([(rank + 0.5) / n for rank in order]) for _, _, order in cases]).double()
    rows = with_draws(monkeypatch, start=starts, view=torch.cat([places, orders], 1), positions=orders)
    eligible = world.eligible.expand(rows, -1)
    views = sample_views(eligible, replicates, key=0, antithetic=antithetic, rates="stratified")
    assert world.estimates(views, replicates).mean().item() == pytest.approx(world.elbo(), abs=1e-10)
    for view in views.view(replicates, rows, -1):
        assert world.estimates(view, 1).mean().item() == pytest.approx(world.elbo(), abs=1e-10), "each view, too"
        share = torch.bincount(view.sum(-1), minlength=n + 1)[1:] / rows
        torch.testing.assert_close(share, torch.full_like(share, 1 / n))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_gauss_nodes_are_exact_for_few_tokens(n: int, nodes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all starts, positions that are masked in any case, and masks of the others with their probabilities."""
    world, (rates, of_nodes) = World(n), NODES[nodes]
    cases = list(product(range(nodes), range(n), product((0, 1), repeat=n)))
    starts = torch.tensor([[(start + 0.5) / nodes] for start, _, _ in cases], dtype=torch.float64)
    draws = [[(one + 0.5) / n, *with_hole([0.0 if bit else 1.0 for bit in bits])] for _, one, bits in cases]
    rows = with_draws(monkeypatch, start=starts, view=torch.tensor(draws, dtype=torch.float64))
    views, weights = sample_views(world.eligible.expand(rows, -1), nodes, key=0, antithetic=False, rates="gauss")
    assert weights is not None
    expected = 0.0
    for index, (view, weight) in enumerate(zip(views.view(nodes, rows, -1), weights.view(nodes, -1), strict=True)):
        node = [(start + index) % nodes for start, _, _ in cases]
        of_cases = zip(node, cases, strict=True)
        chance = [math.prod(rates[k] if b else 1 - rates[k] for b in bits) / n for k, (_, _, bits) in of_cases]
        assert weight.tolist() == pytest.approx([nodes * of_nodes[k] for k in node], abs=1e-12)
        expected += (
            float((torch.tensor(chance, dtype=torch.float64) * world.estimates(view, 1, weight)).sum()) / nodes / nodes
        )
    at_nodes = [
        sum(
            math.comb(n - 1, m - 1) * rate ** (m - 1) * (1 - rate) ** (n - m) * world.of_number(m)
            for m in range(1, n + 1)
        )
        for rate in rates
    ]  # the mean of (1/λ) · Σ_masked over masks of rate λ
    quadrature = sum(weight * value for weight, value in zip(of_nodes, at_nodes, strict=True))
    assert expected == pytest.approx(quadrature, abs=1e-10)
    assert (abs(quadrature - world.elbo()) < 1e-10) == (n <= 2 * nodes), "exact up to degree 2R − 1, and no further"


def test_the_integrand_at_a_node_is_that_of_the_elbo() -> None:
    """One mask in any case and (n/m) have the mean of (1/λ) · Σ over masks that may be empty."""
    world, rate = World(4), 0.3
    plain = 0.0
    for bits in product((0, 1), repeat=4):
        masked = [j for j, bit in enumerate(bits) if bit]
        chance = math.prod(rate if bit else 1 - rate for bit in bits)
        plain += chance / rate * (world.value(masked) * len(masked) / 4 if masked else 0.0)
    ours = sum(math.comb(3, m - 1) * rate ** (m - 1) * (1 - rate) ** (4 - m) * world.of_number(m) for m in range(1, 5))
    assert ours == pytest.approx(plain, abs=1e-12)


def test_uniform_rates_are_biased_where_empty_views_are_filled() -> None:
    """What the two others mend: λ ~ U[0, 1] has 0 to n masks alike, and an empty view is made one of a single mask."""
    world, rows = World(4), 200_000
    eligible = world.eligible.expand(rows, -1)
    views = sample_views(eligible, 1, key=1, antithetic=False, rate_range=(0.0, 1.0))
    filled = sum(world.of_number(max(m, 1)) for m in range(5)) / 5
    estimates = world.estimates(views, 1)
    error = 5 * float(estimates.std()) / rows**0.5
    assert float(estimates.mean()) == pytest.approx(filled, abs=error)
    assert abs(filled - world.elbo()) > 2 * error


@pytest.mark.parametrize(
    "options",
    [
        {"rates": "stratified"},
        {"rates": "stratified", "antithetic": False},
        {"rates": "gauss", "antithetic": False},
        {"positions": "confidence"},
        {"rates": "stratified", "positions": "confidence"},
    ],
)
def test_views_depend_on_row_id_alone(options: dict[str, Any]) -> None:
    eligible = torch.rand(6, 10, generator=torch.Generator().manual_seed(0)) < 0.8
    ids, order = torch.tensor([3, 8, 1, 0, 9, 4]), torch.randint(-1, 5, (6, 10))

    def draw(rows: slice, key: int = 7) -> list[Tensor]:
        of_rows = {"order": order[rows]} if "positions" in options else {}
        every: Any = options | of_rows
        views: Any = sample_views(eligible[rows], 4, key=key, row_ids=ids[rows], **every)
        tensors = [views] if isinstance(views, Tensor) else list(views)
        return [x.unflatten(0, (4, -1)) for x in tensors]

    for whole, alone, other in zip(draw(slice(None)), draw(slice(2, 4)), draw(slice(None), key=8), strict=True):
        assert torch.equal(whole[:, 2:4], alone)
        assert not torch.equal(whole, other)
    masks = draw(slice(None))[0]
    assert masks.any(-1).all()
    assert not (masks & ~eligible).any()


@pytest.mark.parametrize("antithetic", [False, True])
def test_stratified_views_take_one_number_of_each_stratum(antithetic: bool) -> None:
    eligible = torch.ones(50, 9, dtype=torch.bool)
    eligible[::2, 4:] = False
    views = sample_views(eligible, 4, key=3, rates="stratified", antithetic=antithetic).view(4, 50, 9)
    few, many = views[:, ::2].sum(-1), views[:, 1::2].sum(-1).sort(0).values  # of 4 and of 9 positions
    assert torch.equal(few.sort(0).values, torch.arange(1, 5).unsqueeze(1).expand(4, 25))
    for k, numbers in enumerate(many):  # 1 + ⌊9x⌋, x in [k/4, (k + 1)/4)
        assert (numbers >= 1 + 9 * k // 4).all()
        assert (numbers <= -(-9 * (k + 1) // 4)).all()
    assert len(few[0].unique()) == 4, "a view has no stratum of its own"
    for times in (views[:, ::2, :4].sum(0), views[:, 1::2].sum(0)):  # how often each position is masked
        assert (times.max(-1).values - times.min(-1).values <= 1).all() == antithetic


def test_confidence_masks_what_was_drawn_last() -> None:
    """16 tokens in 8 phases of two: all of the later phases, none of the earlier ones; as many as of uniform views."""
    order = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(i)) for i in range(40)]).int()
    eligible = torch.ones_like(order).bool()
    plain = sample_views(eligible, 4, key=2)
    views = sample_views(eligible, 4, key=2, positions="confidence", order=order)
    assert torch.equal(views.sum(-1), plain.sum(-1))
    phase = (order.long() * PHASES // 16).repeat(4, 1)
    boundary = (16 - views.sum(-1, keepdim=True)) * PHASES // 16  # the phase that the view is in
    assert views[phase > boundary].all()
    assert not views[phase < boundary].any()
    inside = views.sum(-1) % 2 == 1  # one of the two of its phase, at random
    first_of_two = (order.repeat(4, 1) % 2 == 0) & (phase == boundary)
    share = views[inside][first_of_two[inside]].double().mean()
    assert 0.25 < share < 0.75


def test_tokens_of_one_step_are_shuffled_and_tokens_never_drawn_come_last() -> None:
    order = torch.tensor([[0, 0, 0, 0, 1, 1, -1, -1]]).repeat(400, 1)
    eligible = torch.ones_like(order).bool()
    eligible[:, 5] = False
    views = sample_views(eligible, 2, key=2, positions="confidence", order=order, rates="stratified")
    by_number = {m: views[views.sum(-1) == m] for m in range(1, 8)}
    assert not any(of_number[:, 5].any() for of_number in by_number.values())
    assert by_number[1][:, 6:].any(-1).all()
    assert by_number[2][:, 6:].all()
    assert by_number[3][:, 4].all()
    share = by_number[5][:, :4].double().mean(0)  # 2 of 4 tokens
    assert (share - 0.5).abs().max() < 5 * 0.5 / len(by_number[5]) ** 0.5


def test_halves_of_stratified_views_are_estimates_by_themselves() -> None:
    eligible, ids = torch.ones(30, 8, dtype=torch.bool), torch.arange(30)
    options = config(view_rates="stratified")
    first, second = views_of(options, eligible, ids, replicates=8, key=4, sets=2).halves()
    for half in (first, second):
        numbers = half.masks.view(4, 30, 8).sum(-1).sort(0).values
        assert torch.equal((numbers - 1) // 2, torch.arange(4).unsqueeze(1).expand(4, 30)), "one of each stratum"
    assert not torch.equal(first.masks, second.masks)
    options = config(view_rates="gauss", antithetic=False)
    for half in views_of(options, eligible, ids, replicates=6, key=4, sets=2).halves():
        assert half.weights is not None
        torch.testing.assert_close(half.weights.view(3, 30).mean(0), torch.ones(30).double())
    uniform = config()
    whole = views_of(uniform, eligible, ids, replicates=8, key=4)
    assert torch.equal(views_of(uniform, eligible, ids, replicates=8, key=4, sets=2).masks, whole.masks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rates": "gauss"}, "antithetic must be False for rates 'gauss'"),
        ({"rates": "gaus", "antithetic": False}, "unknown rates 'gaus', choose one of uniform, stratified, gauss"),
        ({"positions": "order"}, "unknown positions 'order', choose one of uniform, confidence"),
        ({"positions": "confidence"}, "positions 'confidence' needs order"),
        ({"positions": "confidence", "order": torch.zeros(2, 4).int()}, r"order has shape \(2, 4\)"),
        ({"rates": "stratified", "rate_range": (0.1, 0.9)}, "rate_range must be left out for rates 'stratified'"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_views(torch.ones(2, 3, dtype=torch.bool), 2, key=0, **options)


def test_an_order_has_integers() -> None:
    with pytest.raises(TypeError, match="order must have integers"):
        sample_views(torch.ones(2, 3).bool(), 2, key=0, positions="confidence", order=torch.zeros(2, 3))
