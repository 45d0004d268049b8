"""Helpers of the sampling tests: random logits, goodness of fit, what counts as the same draw, memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dmpo.kernels import reference

NAN, INF = float("nan"), float("inf")


def random_logits(
    rows: int, vocab: int, dtype: torch.dtype = torch.float32, scale: float = 3.0, seed: int = 0
) -> Tensor:
    return (torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def chi_square_p(counts: Tensor, probs: Tensor) -> float:
    """Upper tail of Pearson's statistic; classes expected fewer than 10 times are pooled."""
    expected = probs.double() / probs.double().sum() * counts.sum()
    rare = expected < 10
    assert counts[expected == 0].sum() == 0
    seen = torch.cat([counts[~rare].double(), counts[rare].sum().double().reshape(1)])
    wanted = torch.cat([expected[~rare], expected[rare].sum().reshape(1)])
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    statistic = ((seen - wanted) ** 2 / wanted).sum()
    return float(torch.special.gammaincc(torch.tensor((len(seen) - 1) / 2).double(), statistic / 2))


def assert_same_draw(
    ids: Tensor,
    logits: Tensor,
    temperature: float,
    seed: int,
    row_ids: Tensor,
    forbid: list[int],
    rounding: float = 2e-6,
) -> None:
    """Equal to the float64 definition, but where the uniform lies within `rounding` of a step of the cumulative sum."""
    want, _ = reference.sample_tokens(logits.double(), temperature, seed=seed, row_ids=row_ids, forbid=forbid)
    if temperature == 0:
        assert torch.equal(ids, want)
        return
    wide = logits.double()
    wide[:, forbid] = -INF
    cdf = (wide / temperature).softmax(-1).cumsum(-1)
    low, high = torch.minimum(ids, want).unsqueeze(-1), torch.maximum(ids, want).unsqueeze(-1)
    edges = torch.cat([cdf.gather(-1, low), cdf.gather(-1, (high - 1).clamp(min=0))], -1)  # every step between the two
    gap = (edges - reference.uniform(seed, row_ids).unsqueeze(-1)).abs().amax(-1)
    assert ((ids == want) | (gap < rounding)).all()
    assert (ids == want).double().mean() > 0.9


def assert_confidence_is_as_exact_as_torch(ids: Tensor, confidence: Tensor, logits: Tensor, forbid: list[int]) -> None:
    allowed = logits.float().clone()
    allowed[:, forbid] = -INF
    at = ids.unsqueeze(-1)
    exact = allowed.double().softmax(-1).gather(-1, at).squeeze(-1)
    torch_error = (allowed.softmax(-1).gather(-1, at).squeeze(-1).double() - exact).abs().max()
    assert (confidence.double() - exact).abs().max() <= 2 * torch_error + 2**-23


def assert_same_rows(
    drawn: tuple[Tensor, Tensor],
    wanted: tuple[Tensor, Tensor],
    logits: Tensor,
    temperature: float,
    seed: int,
    row_ids: Tensor,
    *,
    same_sums: bool,
    mode: str = "cdf",
) -> None:
    """The same ids and confidences, to the bit where sums are added up in the same order (`same_sums`). Where they are
    not, both confidences are as exact as PyTorch's, and so is the step of the cumulative sum that decides a draw."""
    if same_sums:
        assert torch.equal(drawn[0], wanted[0])
        assert torch.equal(drawn[1], wanted[1])
        return
    no_sum_decides = mode == "gumbel" or temperature == 0  # the largest score wins
    if no_sum_decides:
        assert torch.equal(drawn[0], wanted[0])
    for ids, confidence in (drawn, wanted):
        if not no_sum_decides:
            assert_same_draw(ids, logits, temperature, seed, row_ids, [])
        assert_confidence_is_as_exact_as_torch(ids, confidence, logits, [])


class Allocations(TorchDispatchMode):
    """Records dtype and number of elements of everything allocated."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.dtype, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        self.seen += [(x.dtype, x.untyped_storage().nbytes() // x.itemsize) for x in [out] if isinstance(x, Tensor)]
        return out
