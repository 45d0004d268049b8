"""Inputs of linear cross-entropy and its comparison with the reference, for the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dmpo.kernels import launch
from tests.kernels.kernel_oracle import assert_as_exact_as_torch, value_and_grads

HEADS = ["frozen", "trainable", "head only"]
HALF = (torch.bfloat16, torch.float16)
PRODUCT_ROUNDINGS = 24  # of a GPU's product of transposed operands, as benchmarks/gpu/parity.py allows all products


def problem(
    rows: int, vocab: int, size: int, dtype: torch.dtype = torch.float32, scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden [rows, size], weight [vocab, size], bias [vocab], targets [rows]."""
    g = torch.Generator().manual_seed(vocab)
    hidden, weight, bias = (
        torch.randn(shape, generator=g).to(dtype) for shape in ((rows, size), (vocab, size), (vocab,))
    )
    return (hidden * scale).to(dtype), weight, bias, torch.randint(0, vocab, (rows,), generator=g)


def compare(
    run: Callable[..., Any],
    exact: Callable[..., Any],
    head: str,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: float,
    roundings: int = 3,
) -> None:
    """Value and gradients of `run(hidden, weight, bias)` against `exact` in float32 and float64, within
    `assert_as_exact_as_torch`; where products keep half-precision operands, gradients within `assert_rounded_once`."""
    trained: dict[str, list[Tensor | None]] = {
        "frozen": [hidden],
        "trainable": [hidden, weight, bias],
        "head only": [weight, bias],
    }
    leaves = [x for x in trained[head] if x is not None]

    def call(fn: Callable[..., Any], wide: bool) -> Callable[..., Tensor]:
        def of_leaves(*given: Tensor) -> Tensor:
            names = dict(zip((id(x) for x in leaves), given, strict=True))
            all3 = (None if x is None else names.get(id(x), x.double() if wide else x) for x in (hidden, weight, bias))
            return fn(*all3)

        return of_leaves

    probe = call(exact, False)(*leaves)
    upstream = torch.randn(probe.shape, generator=torch.Generator().manual_seed(3))
    mine = value_and_grads(call(run, False), *leaves, upstream=upstream)
    plain = value_and_grads(call(exact, False), *leaves, upstream=upstream)
    oracle = value_and_grads(call(exact, True), *(x.double() for x in leaves), upstream=upstream)
    assert [x.dtype for x in mine[1:]] == [x.dtype for x in leaves]
    if keeps_half_precision(hidden):
        assert_as_exact_as_torch(mine[:1], plain[:1], oracle[:1], scale)
        for gradient, truth in zip(mine[1:], oracle[1:], strict=True):
            assert_rounded_once(gradient, truth, float(upstream.abs().max()))
    else:
        assert_as_exact_as_torch(mine, plain, oracle, scale, roundings)


def keeps_half_precision(hidden: Tensor) -> bool:
    """Products of `hidden` have half-precision operands, probabilities among them: on a GPU alone."""
    return hidden.device.type == "cuda" and hidden.dtype in HALF and launch.uses_triton(hidden)


def assert_rounded_once(gradient: Tensor, exact: Tensor, factor: float) -> None:
    """Of a gradient whose products keep half-precision operands: the error of rounding each probability, of which
    `factor` is the largest multiple, once to that dtype."""
    dtype = torch.finfo(gradient.dtype)
    largest = max(factor, float(exact.abs().max()))
    error = (gradient.double() - exact).abs().max()
    assert error <= 4 * dtype.eps * largest + dtype.smallest_normal * dtype.eps / 2
