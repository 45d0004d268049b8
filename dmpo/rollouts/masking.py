"""Views: random maskings of completions, in antithetic pairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..config.keys import DMPOConfig
from ..models.masked_lm import one_of
from ..randomness import derive_key, uniforms


def views_of(config: DMPOConfig, eligible: Tensor, row_ids: Tensor, *, replicates: int, key: int) -> Tensor:
    """`sample_views` with the rates and the antithetic pairs that a config asks for."""
    return sample_views(
        eligible,
        replicates,
        key=key,
        row_ids=row_ids,
        rate_range=(config.mask_rate_min, config.mask_rate_max),
        antithetic=config.antithetic,
    )


def sample_views(
    eligible: Tensor,
    replicates: int,
    *,
    key: int,
    row_ids: Tensor | None = None,
    rate_range: tuple[float, float] = (0.1, 0.9),
    antithetic: bool = True,
) -> Tensor:
    """Draw `replicates` masks of each completion; row = replicate · B + sample.

    Each view draws a rate λ ~ U[rate_range] and masks each eligible position with probability λ. Antithetic views come
    in pairs (2k, 2k+1), the second the complement of the first, so a pair masks every eligible position exactly once.
    Every view masks at least one position. A completion with a single eligible position has no complement to leave:
    both views of its pair mask it.

    Args:
        eligible: bool [B, L], positions that may be masked; at least one a row.
        replicates: views a completion, R; even when antithetic.
        key: of the random numbers, see `randomness.derive_key`.
        row_ids: int64 [B], the identity of each completion (default 0..B-1): its views depend on (key, row id) alone.
        rate_range: limits of λ, within [0, 1].

    Returns:
        bool [R·B, L].

    Raises:
        ValueError: an odd number of antithetic views, limits out of order, or a row with nothing to mask.
    """
    if replicates < 1 or (antithetic and replicates % 2):
        raise ValueError(f"replicates must be ≥ 1 and even when antithetic, got {replicates}")
    low, high = rate_range
    if not 0 <= low <= high <= 1:
        raise ValueError(f"rate_range must satisfy 0 ≤ low ≤ high ≤ 1, got {rate_range}")
    count = eligible.sum(-1)  # [B]
    if not bool((count > 0).all()):
        raise ValueError("eligible has a row with no position to mask")
    rows, length = eligible.shape
    ids = torch.arange(rows, device=eligible.device) if row_ids is None else row_ids
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
    return torch.cat(views)


def completion_mask(completions: Tensor, eos_ids: Sequence[int]) -> Tensor:
    """True up to and including the first EOS of each row (everywhere without one); int64 [B, L] -> bool [B, L].

    eos_ids: each of them ends a row.
    """
    is_eos = one_of(completions, eos_ids)
    return is_eos.cumsum(-1) - is_eos.long() == 0


def _nth_eligible(eligible: Tensor, n: Tensor) -> Tensor:
    """One-hot of the n-th (from 0) eligible position of each row; bool [B, L], int64 [B] -> bool [B, L]."""
    return eligible & (eligible.cumsum(-1) == n.unsqueeze(-1) + 1)
