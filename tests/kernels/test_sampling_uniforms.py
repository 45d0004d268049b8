"""If these fail, the random numbers behind the draw are not uniform, not what saved runs used, or picked by wrongly."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from dmpo.kernels import reference, sample_tokens
from dmpo.kernels.sampling import plain as sampling_plain
from dmpo.kernels.sampling.triton_kernels import _pick
from tests.kernels.kernel_oracle import both_paths
from tests.kernels.sampling_oracle import chi_square_p

EDGES = [(0.0, 1, 0.0), (0.75 - 1e-12, 1, 1 - 4e-12 / 3), (0.75, 3, 0.0), (1.0, 3, 1.0)]  # u, index, what is left of u


@both_paths
@pytest.mark.parametrize(("u", "index", "rest"), EDGES)
def test_a_pick_at_the_ends_of_the_unit_interval_has_weight(path: str, u: float, index: int, rest: float) -> None:
    """0 must skip leading zeros; a product rounded up to the total must not fall off the end or onto a zero."""
    weights = torch.tensor([0.0, 3.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]).double()
    if path == "plain":
        picked, left = sampling_plain.pick(weights[None], torch.tensor([[u]], dtype=torch.float64))
    else:
        picked, left = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.float64)
        _pick_once[(1,)](weights, torch.tensor([u], dtype=torch.float64), picked, left)
    assert picked.item() == index
    assert left.item() == pytest.approx(rest, abs=1e-13)


@triton.jit
def _pick_once(weights, u, picked, left):  # type: ignore[no-untyped-def]
    index, rest = _pick(tl.load(weights + tl.arange(0, 8)), tl.load(u), 8)
    tl.store(picked, index)
    tl.store(left, rest)


def test_uniforms_are_uniform_and_independent() -> None:
    rows = torch.arange(500_000)
    streams = [reference.uniform(1, rows), reference.uniform(2, rows), reference.uniform(1, rows << 32)]
    flat = torch.full((256,), 1 / 256)
    for u in streams:
        assert u.min() >= 0
        assert u.max() < 1
        assert chi_square_p((u * 256).long().bincount(minlength=256), flat) > 1e-3
        pairs = (u[:-1:2] * 16).long() * 16 + (u[1::2] * 16).long()
        assert chi_square_p(pairs.bincount(minlength=256), flat) > 1e-3
    for other in streams[1:]:
        pairs = (streams[0] * 16).long() * 16 + (other * 16).long()
        assert chi_square_p(pairs.bincount(minlength=256), flat) > 1e-3
    low = ((streams[0] * 2.0**53).long() & 255).bincount(minlength=256)
    assert chi_square_p(low, flat) > 1e-3


def test_known_uniforms() -> None:
    """splitmix64 finalisers over (row, seed), worked out with Python integers; saved runs depend on them."""

    def mix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    for seed in (0, 1, -1, 2**63, 2**64 + 1, 123456789):
        rows = [0, 1, 2**40 + 17, -5]
        want = [(mix(mix(row % 2**64) ^ mix((seed + 0x9E3779B97F4A7C15) % 2**64)) >> 11) * 2.0**-53 for row in rows]
        assert reference.uniform(seed, torch.tensor(rows)).tolist() == want


@both_paths
def test_seeds_are_taken_modulo_two_to_the_64(path: str) -> None:
    logits = torch.zeros(24, 300)
    a, b, c, d = (sample_tokens(logits, 1.0, seed=s)[0] for s in (-1, 2**64 - 1, 1, 2**64 + 1))
    assert torch.equal(a, b)
    assert torch.equal(c, d)
    assert not torch.equal(a, c)
