"""Views: random maskings of completions (docs/maths.md, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from ..config.keys import DMPOConfig
from ..models.token_ids import one_of
from ..randomness import derive_key
from .mask_draws import drawn_last, gauss_nodes, strata, uniform_rates

Rates = Literal["uniform", "stratified", "gauss"]
Positions = Literal["uniform", "confidence"]
RATES, POSITIONS = ("uniform", "stratified", "gauss"), ("uniform", "confidence")
RATE_RANGE = (0.1, 0.9)


class WeightedViews(NamedTuple):
    """Views and what each of them counts; row = replicate · B + sample.

    masks: bool [R·B, L]. weights: float64 [R·B], whose mean over the views of a completion is 1; None: all are 1.
    """

    masks: Tensor
    weights: Tensor | None

    def halves(self) -> list[WeightedViews]:
        """The first R/2 views of each completion, and the others."""
        weights = (None, None) if self.weights is None else self.weights.chunk(2)
        return [WeightedViews(*of_half) for of_half in zip(self.masks.chunk(2), weights, strict=True)]


def views_of(
    config: DMPOConfig,
    eligible: Tensor,
    row_ids: Tensor,
    *,
    replicates: int,
    key: int,
    positions: Positions = "uniform",
    order: Tensor | None = None,
    sets: int = 1,
) -> WeightedViews:
    """Views with the rates and the antithetic pairs that a config asks for.

    Args:
        positions, order: as in `sample_views`.
        sets: views 0 to R/sets − 1 of a completion and each further set are estimates by themselves, independent of
            each other.
    """
    uniform = config.view_rates == "uniform"
    # Uniform rates are independent of each other, except for pairs: any whole number of pairs is a set.
    keys = [key] if uniform or sets == 1 else [derive_key(key, "set", index) for index in range(sets)]
    drawn = [
        _draw(
            eligible,
            replicates // len(keys),
            key=of_set,
            row_ids=row_ids,
            rate_range=(config.mask_rate_min, config.mask_rate_max) if uniform else None,
            antithetic=config.antithetic,
            rates=config.view_rates,
            positions=positions,
            order=order,
        )
        for of_set in keys
    ]
    if len(drawn) == 1:
        return drawn[0]
    weights = [views.weights for views in drawn if views.weights is not None]
    return WeightedViews(torch.cat([views.masks for views in drawn]), torch.cat(weights) if weights else None)


@overload
def sample_views(
    eligible: Tensor,
    replicates: int,
    *,
    key: int,
    row_ids: Tensor | None = None,
    rate_range: tuple[float, float] | None = None,
    antithetic: bool = True,
    rates: Literal["uniform", "stratified"] = "uniform",
    positions: Positions = "uniform",
    order: Tensor | None = None,
) -> Tensor: ...


@overload
def sample_views(
    eligible: Tensor,
    replicates: int,
    *,
    key: int,
    row_ids: Tensor | None = None,
    rate_range: tuple[float, float] | None = None,
    antithetic: bool = True,
    rates: Literal["gauss"],
    positions: Positions = "uniform",
    order: Tensor | None = None,
) -> WeightedViews: ...


def sample_views(
    eligible: Tensor,
    replicates: int,
    *,
    key: int,
    row_ids: Tensor | None = None,
    rate_range: tuple[float, float] | None = None,
    antithetic: bool = True,
    rates: Rates = "uniform",
    positions: Positions = "uniform",
    order: Tensor | None = None,
) -> Tensor | WeightedViews:
    """Draw `replicates` masks of each completion; row = replicate · B + sample. Every view masks at least one position.

    With n eligible positions, m of them masked, and (n/m) · Σ_masked log p as the estimate of a view:

    uniform: each view draws a rate λ ~ U[rate_range] and masks each position with probability λ. Antithetic views come
        in pairs (2k, 2k+1), the second the complement of the first, so a pair masks every eligible position exactly
        once. A completion with a single eligible position has no complement to leave: both views of its pair mask it.
    stratified: the R views draw m from R strata of 1..n, and then m positions. The mean of the estimates is unbiased
        for the ELBO. Antithetic views mask windows of one random order of the positions, each window from where the
        window before it ended, around and around: no position is masked more than once more often than another. Views 9
        to 16 have an order of their own, and so on.
    gauss: the rates are the R Gauss-Legendre nodes of [0, 1]. A view masks one position, drawn at random, and each
        other position with probability λ. With the weights of the nodes the estimate is unbiased for the ELBO where
        n ≤ 2R; elsewhere it has the quadrature's error.

    A view takes a random stratum or node, so no view of a completion is special.

    Args:
        eligible: bool [B, L], positions that may be masked; at least one a row.
        replicates: views a completion, R; even when antithetic.
        key: of the random numbers, see `randomness.derive_key`.
        row_ids: int64 [B], the identity of each completion (default 0..B-1): its views depend on (key, row id) alone.
        rate_range: of uniform rates, the limits of λ, within [0, 1]; None: 0.1 and 0.9.
        positions: uniform, or confidence: a view keeps its number m and masks the positions that were drawn last, in 8
            phases of equal size: later phases whole, its own phase at random. The ELBO is then not what views estimate.
            The views of an antithetic pair then share their numbers alone.
        order: int [B, L], the step at which each token was drawn, as in `Generation`; positions="confidence" alone
            reads it. Tokens of one step have a random order; a token that was never drawn (-1) comes last.

    Returns:
        bool [R·B, L]; for gauss `WeightedViews`, (masks, weights), whose weights losses and `sequence_log_prob` take as
        `view_weights`.

    Raises:
        ValueError: an unknown name, an odd number of antithetic views, limits out of order or without uniform rates, a
            row with nothing to mask, gauss nodes with antithetic pairs, or confidence without an order of that shape.
        TypeError: an order without integers.
    """
    views = _draw(
        eligible,
        replicates,
        key=key,
        row_ids=row_ids,
        rate_range=rate_range,
        antithetic=antithetic,
        rates=rates,
        positions=positions,
        order=order,
    )
    return views.masks if views.weights is None else views


def completion_mask(completions: Tensor, eos_ids: Sequence[int]) -> Tensor:
    """True up to and including the first EOS of each row (everywhere without one); int64 [B, L] -> bool [B, L].

    eos_ids: each of them ends a row.
    """
    is_eos = one_of(completions, eos_ids)
    return is_eos.cumsum(-1) - is_eos.long() == 0


def _draw(
    eligible: Tensor,
    replicates: int,
    *,
    key: int,
    row_ids: Tensor | None,
    rate_range: tuple[float, float] | None,
    antithetic: bool,
    rates: Rates,
    positions: Positions,
    order: Tensor | None,
) -> WeightedViews:
    """`sample_views`, always with the weights."""
    _check_names(rates, positions, antithetic=antithetic, rate_range=rate_range)
    if replicates < 1 or (antithetic and replicates % 2):
        raise ValueError(f"replicates must be ≥ 1 and even when antithetic, got {replicates}")
    low, high = rate_range or RATE_RANGE
    if not 0 <= low <= high <= 1:
        raise ValueError(f"rate_range must satisfy 0 ≤ low ≤ high ≤ 1, got {rate_range}")
    _check_order(positions, order, eligible)
    if not bool(eligible.any(-1).all()):
        raise ValueError("eligible has a row with no position to mask")
    ids = torch.arange(len(eligible), device=eligible.device) if row_ids is None else row_ids
    weights: Tensor | None = None
    if rates == "uniform":
        masks = uniform_rates(eligible, replicates, key, ids, (low, high), antithetic)
    elif rates == "stratified":
        masks = strata(eligible, replicates, key, ids, antithetic)
    else:
        masks, weights = gauss_nodes(eligible, replicates, key, ids)
    if order is not None and positions == "confidence":
        masks = [
            drawn_last(order, mask.sum(-1), eligible, derive_key(key, "order", index), ids)
            for index, mask in enumerate(masks)
        ]
    return WeightedViews(torch.cat(masks), weights)


def _check_names(rates: str, positions: str, *, antithetic: bool, rate_range: tuple[float, float] | None) -> None:
    """Raise ValueError for names that are unknown or do not go together."""
    for name, value, known in (("rates", rates, RATES), ("positions", positions, POSITIONS)):
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}, choose one of {', '.join(known)}")
    if rates == "gauss" and antithetic:
        raise ValueError(
            "antithetic must be False for rates 'gauss': a complement has not the rate of a node; "
            "for pairs take rates 'stratified'"
        )
    if rates != "uniform" and rate_range is not None and tuple(rate_range) != (0, 1):
        raise ValueError(
            f"rate_range must be left out for rates '{rates}', which cover all numbers of masked positions, "
            f"got {rate_range}"
        )


def _check_order(positions: str, order: Tensor | None, eligible: Tensor) -> None:
    """Raise ValueError or TypeError unless an order is there where it is read."""
    if positions == "uniform":
        return
    if order is None:
        raise ValueError(
            "positions 'confidence' needs order, the step at which each token was drawn, int [B, L]: "
            "`order` of the Generation that drew the completions"
        )
    if order.shape != eligible.shape:
        raise ValueError(f"order has shape {tuple(order.shape)}, eligible has {tuple(eligible.shape)}")
    if order.is_floating_point() or order.dtype == torch.bool:
        raise TypeError(f"order must have integers, got {order.dtype}")
