"""If these fail, stratified views save no forwards, or the two halves of a loss's views are not independent."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from dmpo.rollouts.masking import views_of
from tests.gradient_problems import config
from tests.view_worlds import World, beside_every_set

ROWS = 2000


@cache
def worlds() -> list[World]:
    """Eight completions of 4 tokens, drawn from a joint distribution in which a token says something of the others."""
    draw = torch.Generator().manual_seed(0)
    joint = (2 * torch.randn(256, generator=draw, dtype=torch.float64)).softmax(0).view(4, 4, 4, 4)
    drawn = torch.multinomial(joint.flatten(), 8, replacement=True, generator=draw)
    completions = torch.stack(torch.unravel_index(drawn, joint.shape), -1).tolist()
    return [World(4, beside_every_set(joint, tokens)) for tokens in completions]


def variance(replicates: int, rows: int = ROWS, **options: Any) -> float:
    """The variance of log p from so many views, with the keys of a config, mean over completions."""
    eligible = worlds()[0].eligible.expand(rows, -1)
    views = views_of(config(**options), eligible, torch.arange(rows), replicates=replicates, key=9)
    of_worlds = [world.estimates(views.masks, replicates, views.weights) for world in worlds()]
    return float(torch.stack(of_worlds).var(-1).mean())


@pytest.mark.parametrize("replicates", [4, 8])
@pytest.mark.parametrize("antithetic", [False, True])
def test_stratified_views_halve_the_variance(replicates: int, antithetic: bool) -> None:
    """At equal forwards, against independent uniform rates; 0.33 to 0.38 of it, and antithetic uniform rates 0.70."""
    uniform = variance(replicates, antithetic=False)
    assert variance(replicates, view_rates="stratified", antithetic=antithetic) < 0.45 * uniform
    assert 0.6 * uniform < variance(replicates) < 0.8 * uniform


def test_many_antithetic_views_end_at_the_elbo() -> None:
    """Windows of one order alone would repeat themselves, and leave the variance of the order."""
    assert variance(64, 300, view_rates="stratified") < 1.5 / 8 * variance(8, view_rates="stratified")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"view_rates": "stratified"},
        {"view_rates": "stratified", "antithetic": False},
        {"view_rates": "gauss", "antithetic": False},
    ],
)
def test_two_halves_are_independent(options: dict[str, Any]) -> None:
    """wddo, rspo and tb multiply what the halves say: its mean must be the product of the means."""
    world = worlds()[0]
    views = views_of(
        config(**options), world.eligible.expand(ROWS, -1), torch.arange(ROWS), replicates=4, key=3, sets=2
    )
    of_halves = torch.stack([world.estimates(half.masks, 2, half.weights) for half in views.halves()])
    assert abs(float(torch.corrcoef(of_halves)[0, 1])) < 4 / ROWS**0.5
