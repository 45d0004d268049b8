"""Random rows and rules for the tests of remask_ and revoke_."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

MASK = 99
NAN, INF = float("nan"), float("inf")
REMASK_RULES: list[dict[str, Any]] = [
    {"num_transfer": 0},
    {"num_transfer": 1},
    {"num_transfer": 3},
    {"num_transfer": 64},
    {"num_transfer": 90},
    {"num_transfer": 10**9},
    {"threshold": 0.9},
    {"threshold": 0.3},
    {"threshold": -1.0},
    {"threshold": 2.0},
    {"factor": 0.0},
    {"factor": 1.0},
    {"factor": 2.9},
    {"factor": 1e6},
    {"risk": 0.0},
    {"risk": 0.6},
    {"risk": 0.75},
    {"risk": 1.0},
    {"risk": 0.75, "num_transfer": 3},
]
REVOKE_RULES: list[dict[str, Any]] = [
    {"threshold": 0.9, "limit": 0},
    {"threshold": 0.5, "limit": 1},
    {"threshold": 0.5, "limit": 7},
    {"threshold": 0.9, "limit": 40},
    {"threshold": 0.75, "limit": 10**9},
    {"threshold": 1e300, "limit": 33},
    {"threshold": -1e300, "limit": 5},
]


def rule_name(rule: dict[str, Any]) -> str:
    return "-".join(f"{key}={value}" for key, value in rule.items())


def make_rows(
    rows: int, length: int, seed: int = 0, dtype: torch.dtype = torch.float32, masked: float = 0.7
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, candidates, confidence; every third row is coarse (many ties), every fourth has NaN, infinities, ±0."""
    rng = torch.Generator().manual_seed(seed)
    candidates = torch.randint(0, MASK, (rows, length), generator=rng)
    tokens = torch.where(torch.rand(rows, length, generator=rng) < masked, MASK, candidates - 1)
    confidence = torch.rand(rows, length, generator=rng, dtype=torch.float64)
    confidence[::3] = (confidence[::3] * 4).round() / 4
    special = torch.tensor([NAN, INF, -INF, 0.0, -0.0])[torch.randint(0, 5, (rows, length), generator=rng)]
    strange = torch.rand(rows, length, generator=rng) < 0.3
    strange[torch.arange(rows) % 4 != 0] = False
    return tokens, candidates, torch.where(strange, special.double(), confidence).to(dtype)


def operator_calls(grid: list[tuple[int, int]]) -> Iterator[tuple[str, Tensor, tuple[Any, ...], dict[str, Any]]]:
    """(operator, tokens, its other arguments, its options) for all modes on `grid`, pairs of rows and length."""
    for rows, length in grid:
        each = torch.arange(rows) * length // max(1, rows - 1)
        counts = ({"count": 1}, {"count": 5}, {"count": length // 2}, {"count": length + 1}, {"counts": each})
        risks = ({"risk": 0.6}, {"risk": 0.75, "count": 2}, {"risk": 0.25, "counts": each})
        for masked in (0.0, 0.6, 1.0):
            seed = length + round(10 * masked)
            dtype = (torch.float32, torch.float64)[seed % 2]
            tokens, candidates, confidence = make_rows(rows, length, seed, dtype, masked)
            for rule in (*counts, {"threshold": 0.7}, {"threshold": 2.0}, {"factor": 1.5}, *risks):
                yield "remask_", tokens, (candidates, confidence, MASK), rule
            for limit in ({"limit": 2}, {"limit": length // 2}, {"limits": each}):
                yield "revoke_", tokens, (confidence, MASK, 0.6), limit


def assert_operators_agree(actual: Any, expected: Any, grid: list[tuple[int, int]]) -> int:
    """Both libraries (torch.ops.dmpo, or alike) do the same with every call on `grid`; returns the rows tried."""
    tried = 0
    for name, tokens, arguments, options in operator_calls(grid):
        left, right = tokens.clone(), tokens.clone()
        taken = getattr(actual, name)(left, *arguments, **options)
        assert taken.tolist() == getattr(expected, name)(right, *arguments, **options).tolist()
        assert torch.equal(left, right)
        tried += tokens.shape[0]
    return tried


def assert_refused(call: Callable[..., Tensor], named: dict[str, Any], error: type[Exception], message: str) -> None:
    """The call raises, and its tokens, if they are any, stay as they were."""
    before = named["tokens"].clone() if isinstance(named["tokens"], Tensor) else None
    with pytest.raises(error, match=message):
        call(**named)
    assert before is None or torch.equal(named["tokens"], before)
