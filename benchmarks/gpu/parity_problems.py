"""The problems on which the parity of the loss ops is checked: random inputs, and each op as a job on them.

A job takes the module whose ops it calls, so that the same job runs dmpo's kernels and their references.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

STRENGTH = 0.5


@dataclass(frozen=True)
class Problem:
    """Rows of logits [N, L, V] and hidden states [N, L, H]. Dead positions have NaN and targets outside of V.

    The last row has the coefficient 0, the last but one no mask.
    """

    logits: Tensor
    hidden: Tensor
    head: Tensor
    bias: Tensor
    targets: Tensor
    mask: Tensor
    weights: Tensor
    baseline: Tensor

    @property
    def live(self) -> tuple[Tensor, Tensor]:
        """Hidden states [M, H] and targets [M] of the masked positions."""
        return self.hidden[self.mask], self.targets[self.mask]


def problem(dtype: torch.dtype, vocab: int, generator: torch.Generator) -> Problem:
    rows, length, width, device = 5, 13, 256, generator.device
    normal = functools.partial(torch.randn, generator=generator, device=device)
    mask = torch.rand(rows, length, generator=generator, device=device) < 0.6
    mask[:, 0] = True
    mask[-2] = False
    targets = torch.randint(vocab, (rows, length), generator=generator, device=device)
    targets[0, 0], targets[1, 0] = 0, vocab - 1
    weights, baseline = normal(rows), normal(rows)
    baseline[-1] = weights[-1] / STRENGTH  # exactly: STRENGTH is a power of two
    dead = ~mask.unsqueeze(-1)
    return Problem(
        logits=(normal(rows, length, vocab) * 4).to(dtype).masked_fill(dead, torch.nan),
        hidden=normal(rows, length, width).to(dtype).masked_fill(dead, torch.nan),
        head=(normal(vocab, width) / 8).to(dtype),
        bias=normal(vocab).to(dtype),
        targets=targets.masked_fill(~mask, -100),
        mask=mask,
        weights=weights,
        baseline=baseline,
    )


Op = Callable[..., Any]
Job = Callable[[Any, Problem, dict[str, Any]], tuple[Op, list[Tensor]]]  # (module of ops, ...) -> what runs, on what


def _weighted(ops: Any, p: Problem, options: dict[str, Any]) -> tuple[Op, list[Tensor]]:
    weights, baseline = _as(p.weights, options), _as(p.baseline, options)
    return lambda x: ops.weighted_masked_ce(x, p.targets, p.mask, weights, baseline, STRENGTH)[0], [p.logits]


def _weighted_alone(ops: Any, p: Problem, options: dict[str, Any]) -> tuple[Op, list[Tensor]]:
    weights = _as(p.weights, options)
    return lambda x: ops.weighted_masked_ce(x, p.targets, p.mask, weights)[0], [p.logits]


def _logprobs(ops: Any, p: Problem, options: dict[str, Any]) -> tuple[Op, list[Tensor]]:
    return lambda x: ops.masked_token_logprobs(x, p.targets, p.mask), [p.logits]


def _logprobs_in_place(ops: Any, p: Problem, options: dict[str, Any]) -> tuple[Op, list[Tensor]]:
    return lambda x: ops.masked_token_logprobs(x * 1, p.targets, p.mask, inplace_backward=True), [p.logits]


def _logprobs_strided(ops: Any, p: Problem, options: dict[str, Any]) -> tuple[Op, list[Tensor]]:
    def run(x: Tensor) -> Tensor:
        return ops.masked_token_logprobs(x.transpose(0, 1).contiguous().transpose(0, 1), p.targets, p.mask)

    return run, [p.logits]


def _logprobs_unmasked(ops: Any, p: Problem, options: dict[str, Any]) -> tuple[Op, list[Tensor]]:
    logits, targets = p.logits[p.mask].unsqueeze(0), p.targets[p.mask].unsqueeze(0)
    return lambda x: ops.masked_token_logprobs(x, targets), [logits]


def _linear_weighted_frozen(ops: Any, p: Problem, options: dict[str, Any]) -> tuple[Op, list[Tensor]]:
    head, weights, baseline = (_as(x, options) for x in (p.head, p.weights, p.baseline))

    def run(h: Tensor) -> Tensor:
        limit = options.get("limit")
        return ops.linear_weighted_ce(h, head, p.targets, p.mask, weights, baseline, STRENGTH, max_logits_bytes=limit)[
            0
        ]

    return run, [p.hidden]


def _linear_weighted_trained(ops: Any, p: Problem, options: dict[str, Any]) -> tuple[Op, list[Tensor]]:
    weights, baseline = (_as(x, options) for x in (p.weights, p.baseline))

    def run(h: Tensor, head: Tensor, bias: Tensor) -> Tensor:
        limit = options.get("limit")
        return ops.linear_weighted_ce(
            h, head, p.targets, p.mask, weights, baseline, STRENGTH, bias=bias, max_logits_bytes=limit
        )[0]

    return run, [p.hidden, p.head, p.bias]


def _linear_frozen(ops: Any, p: Problem, options: dict[str, Any]) -> tuple[Op, list[Tensor]]:
    (hidden, targets), head, bias = p.live, _as(p.head, options), _as(p.bias, options)
    limit = options.get("limit")
    return lambda h: ops.linear_token_logprobs(h, head, targets, bias=bias, max_logits_bytes=limit), [hidden]


def _linear_trained(ops: Any, p: Problem, options: dict[str, Any]) -> tuple[Op, list[Tensor]]:
    (hidden, targets), limit = p.live, options.get("limit")
    return lambda h, head: ops.linear_token_logprobs(h, head, targets, max_logits_bytes=limit), [hidden, p.head]


def _as(x: Tensor, options: dict[str, Any]) -> Tensor:
    """A constant in the wide dtype that a reference calculates in, as it is for the kernels."""
    return x.to(options["wide"]) if "wide" in options else x


JOBS: dict[str, tuple[Job, bool]] = {  # name -> (job, whether it has products)
    "weighted_masked_ce": (_weighted, False),
    "weighted_masked_ce, no baseline": (_weighted_alone, False),
    "masked_token_logprobs": (_logprobs, False),
    "masked_token_logprobs, no mask": (_logprobs_unmasked, False),
    "masked_token_logprobs, in place": (_logprobs_in_place, False),
    "masked_token_logprobs, strided": (_logprobs_strided, False),
    "linear_weighted_ce, frozen head": (_linear_weighted_frozen, True),
    "linear_weighted_ce, trained head": (_linear_weighted_trained, True),
    "linear_token_logprobs, frozen head": (_linear_frozen, True),
    "linear_token_logprobs, trained head": (_linear_trained, True),
}
