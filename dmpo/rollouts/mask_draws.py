"""The random masks of views, one rule of rates a function (docs/maths.md, section 4)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..randomness import derive_key, uniforms

NEVER = 1 << 24  # a step after all others
PHASES = 8  # of positions="confidence"; arXiv 2604.24357 has as many
WINDOWS = 8  # antithetic stratified views of one order; more would repeat its windows, and its noise would stay


def uniform_rates(
    eligible: Tensor, replicates: int, key: int, ids: Tensor, limits: tuple[float, float], antithetic: bool
) -> list[Tensor]:
    """A rate for each view or pair, and each position masked with that probability."""
    (low, high), count, length = limits, eligible.sum(-1), eligible.shape[1]
    views: list[Tensor] = []
    for index in range(replicates // 2 if antithetic else replicates):
        u = uniforms(derive_key(key, "view", index), ids, length + 2)  # rate, one draw a position, tie-break
        rate = low + (high - low) * u[:, :1]
        mask = (u[:, 1:-1] < rate) & eligible
        chosen = _nth_eligible(eligible, (u[:, -1] * count).long())
        mask |= chosen & (mask.sum(-1, keepdim=True) == 0)  # never empty
        if antithetic:
            full = (mask == eligible).all(-1, keepdim=True) & (count > 1).unsqueeze(-1)
            mask &= ~(chosen & full)  # never leaves an empty complement
            complement = torch.where((count == 1).unsqueeze(-1), mask, eligible & ~mask)
            views += [mask, complement]
        else:
            views.append(mask)
    return views


def strata(eligible: Tensor, replicates: int, key: int, ids: Tensor, antithetic: bool) -> list[Tensor]:
    """m = 1 + ⌊n·x⌋ with x uniform on a stratum of [0, 1): over all strata m is uniform on 1..n, whatever R is.

    The m positions are a window of a random order. WINDOWS antithetic views share the order, and each window begins
    where the window before it ended, around and around. So they mask each position equally often, give or take once.
    """
    count, length = eligible.sum(-1), eligible.shape[1]
    first, views = torch.zeros_like(count), list[Tensor]()
    shared: Tensor | None = None
    for index, stratum in enumerate(_rotated(key, ids, replicates)):
        u = uniforms(derive_key(key, "view", index), ids, 1 + length)  # place in the stratum, one draw a position
        masked = torch.minimum(1 + ((stratum + u[:, 0]) / replicates * count).long(), count)  # 1 + n only by rounding
        if antithetic and index % WINDOWS == 0:
            shared = _ranks(uniforms(derive_key(key, "positions", index), ids, length), eligible)
        rank = _ranks(u[:, 1:], eligible) if shared is None else (shared - first.unsqueeze(-1)) % count.unsqueeze(-1)
        views.append((rank < masked.unsqueeze(-1)) & eligible)
        first = (first + masked) % count
    return views


def gauss_nodes(eligible: Tensor, replicates: int, key: int, ids: Tensor) -> tuple[list[Tensor], Tensor]:
    """A node λ for each view, one position at random, and each other position masked with probability λ.

    So m − 1 is binomial with n − 1 trials. The mean of (n/m) · Σ_masked is then the mean of (1/λ) · Σ_masked over masks
    that may be empty: the integrand of the ELBO, a polynomial in λ of degree n − 1.
    """
    count, length = eligible.sum(-1), eligible.shape[1]
    nodes, weights = np.polynomial.legendre.leggauss(replicates)  # of [-1, 1], where the weights sum to 2
    rates, of_node = torch.tensor(np.stack([(1 + nodes) / 2, weights * replicates / 2]), device=eligible.device)
    views: list[Tensor] = []
    of_views: list[Tensor] = []
    for index, node in enumerate(_rotated(key, ids, replicates)):
        u = uniforms(derive_key(key, "view", index), ids, length + 1)  # the one position, one draw a position
        chosen = _nth_eligible(eligible, (u[:, 0] * count).long())
        views.append((u[:, 1:] < rates[node].unsqueeze(-1)) & eligible | chosen)
        of_views.append(of_node[node])
    return views, torch.cat(of_views)


def _rotated(key: int, ids: Tensor, number: int) -> list[Tensor]:
    """0 to number − 1, each once, from a random start in each row; int64 [B] for each view."""
    start = (uniforms(derive_key(key, "start"), ids, 1)[:, 0] * number).long()
    return [(start + index) % number for index in range(number)]


def drawn_last(order: Tensor, masked: Tensor, eligible: Tensor, key: int, ids: Tensor) -> Tensor:
    """The positions that a rollout drew last, as many as `masked` [B] says, in phases; bool [B, L]."""
    length, count = eligible.shape[1], eligible.sum(-1, keepdim=True)
    u = uniforms(key, ids, 2 * length)  # order of the tokens of a step, order within a phase
    step = torch.where(order < 0, NEVER, order).double()
    phase = _ranks(step + u[:, :length], eligible) * PHASES // count
    return _last(_ranks(phase + u[:, length:], eligible), masked, eligible)


def _ranks(values: Tensor, eligible: Tensor) -> Tensor:
    """Rank of each eligible value in its row, from 0; the others rank after them. [B, L] -> int64 [B, L]."""
    return values.masked_fill(~eligible, torch.inf).argsort(dim=-1, stable=True).argsort(-1)


def _last(rank: Tensor, number: Tensor, eligible: Tensor) -> Tensor:
    """The eligible positions of the last `number` [B] ranks; bool [B, L]."""
    return (rank >= (eligible.sum(-1) - number).unsqueeze(-1)) & eligible


def _nth_eligible(eligible: Tensor, n: Tensor) -> Tensor:
    """One-hot of the n-th (from 0) eligible position of each row; bool [B, L], int64 [B] -> bool [B, L]."""
    return eligible & (eligible.cumsum(-1) == n.unsqueeze(-1) + 1)
