"""When does a result count as right? Errors beside PyTorch's own, draws beside the definition, counts by chi-square."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmpo.kernels import reference

LEAST_P = 1e-6  # of a chi-square test: about 10 tests a run, fresh draws, so one false alarm in 100,000 runs


def value_and_gradients(run: Callable[..., Tensor], leaves: Sequence[Tensor]) -> list[Tensor]:
    """run(*leaves) and its gradients in all of `leaves`, for an upstream gradient that differs by element."""
    copies = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    value = run(*copies)
    upstream = torch.linspace(0.5, 1.5, value.numel(), device=value.device, dtype=value.dtype).view(value.shape)
    return [value.detach(), *torch.autograd.grad(value, copies, upstream)]


@dataclass(frozen=True)
class Error:
    """The error of the element that is nearest to its bound, or furthest beyond it."""

    error: float
    allowed: float

    @property
    def share(self) -> float:
        return self.error / max(self.allowed, 1e-300)


def error_of(ours: Tensor, plain: Tensor, exact: Tensor, roundings: float, scale: float, products: bool) -> Error:
    """`ours` against the float64 `exact`, element by element.

    Allowed are twice the largest error of plain PyTorch in float32 (`plain`), some float32 roundings of the largest
    value or of `scale` (the size of the terms that cancel in it), and one rounding to the dtype of `ours`: of the
    element itself, or of the largest element if products of rounded operands were added up. An infinity or a NaN in
    only one of the two is an infinite error.
    """
    rounding = torch.finfo(ours.dtype).eps
    ours, plain, exact = ours.double(), plain.double(), exact.double()
    finite = exact.isfinite()
    if not torch.equal(ours[~finite].nan_to_num(7.0), exact[~finite].nan_to_num(7.0)):
        return Error(float("inf"), 0.0)
    ours, plain, exact = ours[finite], plain[finite], exact[finite]
    if not len(exact):
        return Error(0.0, 0.0)
    if not bool(ours.isfinite().all()):
        return Error(float("inf"), 0.0)
    largest = float(exact.abs().max())
    allowed = rounding * (torch.full_like(exact, largest) if products else exact.abs())
    allowed += 2 * float((plain - exact).abs().max()) + roundings * max(scale, largest) * 2.0**-24
    error = (ours - exact).abs()
    worst = int((error / allowed).argmax())
    return Error(float(error[worst]), float(allowed[worst]))


def draws_that_differ(
    ids: Tensor, logits: Tensor, temperature: float, seed: int, forbid: Sequence[int], logit_error: float
) -> tuple[int, int]:
    """(draws that differ from the float64 definition, draws whose difference rounding cannot explain).

    Logits that are off by at most e move the cumulative distribution by at most e / 2T. A draw may then differ if its
    row's uniform is that near to a step of the distribution, the largest logit if two are that near to each other. At
    temperature 0 with an error of 0 every draw must agree, ties included.
    """
    wanted, _ = reference.sample_tokens(logits.double(), temperature, seed=seed, forbid=forbid)
    exact = logits.double().index_fill(
        1, torch.tensor(list(forbid), dtype=torch.int64, device=logits.device), -torch.inf
    )
    differ = ids != wanted
    if temperature == 0:
        behind = exact.amax(-1) - exact.gather(1, ids.unsqueeze(1)).squeeze(1)
        explained = behind <= 2 * logit_error if logit_error else torch.zeros_like(differ)
        return int(differ.sum()), int((differ & ~explained).sum())
    cdf = (exact / temperature).softmax(-1).cumsum(-1)
    low, high = torch.minimum(ids, wanted).unsqueeze(1), torch.maximum(ids, wanted).unsqueeze(1)
    steps = torch.cat([cdf.gather(1, low), cdf.gather(1, (high - 1).clamp(min=0))], 1)  # the first and last between
    rows = torch.arange(len(ids), device=ids.device)
    gap = (steps - reference.uniform(seed, rows).unsqueeze(1)).abs().amax(1)
    return int(differ.sum()), int((differ & ~(gap <= logit_error / (2 * temperature) + 1e-6)).sum())


def chi_square(counts: Tensor, probabilities: Tensor) -> tuple[float, int]:
    """(p-value, degrees of freedom) of Pearson's test; classes expected fewer than 10 times are pooled. A count where
    the probability is 0 has the p-value 0."""
    counts, expected = counts.double(), probabilities.double() / probabilities.double().sum() * counts.sum()
    if bool((counts[expected == 0] > 0).any()):
        return 0.0, 0
    rare = expected < 10
    seen = torch.cat([counts[~rare], counts[rare].sum().reshape(1)])
    wanted = torch.cat([expected[~rare], expected[rare].sum().reshape(1)])
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    statistic = ((seen - wanted) ** 2 / wanted).sum().cpu()
    half = torch.tensor((len(seen) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(half, statistic / 2)), len(seen) - 1
