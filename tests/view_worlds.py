"""Completions whose log-probabilities are known beside every set of masks, so that expectations can be listed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from dmpo.losses.views import mean_log_prob

HOLE = 1  # a column that does not count


class World:
    """n tokens that count, and log p of each of them beside every set of masks.

    log_probs: float64 [2^n, n], a row for each set (bit j: token j is masked); None: random ones.
    """

    def __init__(self, n: int, log_probs: Tensor | None = None) -> None:
        self.n, self.eligible = n, torch.arange(n + 1) != HOLE
        draw = torch.Generator().manual_seed(n)
        random = -3 * torch.rand(2**n, n, generator=draw, dtype=torch.float64)
        self.log_probs = random if log_probs is None else log_probs

    def value(self, masked: Sequence[int]) -> float:
        """(n/m) · Σ_masked log p."""
        return self.n / len(masked) * float(self.log_probs[sum(1 << j for j in masked), list(masked)].sum())

    def of_number(self, m: int) -> float:
        """The mean of `value` over all sets of m masks."""
        sets = list(combinations(range(self.n), m))
        return sum(map(self.value, sets)) / len(sets)

    def elbo(self) -> float:
        return sum(self.of_number(m) for m in range(1, self.n + 1)) / self.n

    def estimates(self, masks: Tensor, replicates: int, weights: Tensor | None = None) -> Tensor:
        """The estimate of each completion, by the package's own mean."""
        counted = masks[:, self.eligible]
        code = (counted.long() << torch.arange(self.n)).sum(-1)
        log_probs = torch.zeros(masks.shape, dtype=torch.float64)
        log_probs[:, self.eligible] = self.log_probs[code] * counted
        return mean_log_prob(log_probs, masks, self.n, replicates, weights)


def beside_every_set(joint: Tensor, tokens: Sequence[int]) -> Tensor:
    """log p of each of n tokens, given the tokens that a set leaves, of a joint distribution of n axes; [2^n, n]."""
    n = joint.dim()
    log_probs = torch.zeros(2**n, n, dtype=torch.float64)
    for code in range(1, 2**n):
        masked = [j for j in range(n) if code >> j & 1]
        given = joint[tuple(slice(None) if j in masked else tokens[j] for j in range(n))]
        for axis, j in enumerate(masked):
            of_token = given.movedim(axis, 0).flatten(1).sum(-1) if len(masked) > 1 else given
            log_probs[code, j] = (of_token[tokens[j]] / of_token.sum()).log()
    return log_probs
