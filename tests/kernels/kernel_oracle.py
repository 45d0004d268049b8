"""Helpers of the kernel tests: allowed error, both implementations of an op, constants on a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

both_paths = pytest.mark.parametrize("path", ["plain", "triton"], indirect=True)
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def assert_as_exact_as_torch(
    ours: Sequence[Tensor],
    torch32: Sequence[Tensor],
    oracle: Sequence[Tensor],
    scale: float = 0.0,
    roundings: int = 3,
) -> None:
    """The largest error of each of `ours` against the float64 `oracle` is at most twice that of PyTorch's float32
    arithmetic, plus `roundings` to float32 of the largest value or of `scale`, the size of terms that cancel in it
    (a gradient is c · (1 - p)); NaN and infinities where the oracle has them.
    """
    for mine, plain, exact in zip(ours, torch32, oracle, strict=True):
        mine, plain, exact = mine.double(), plain.double(), exact.double()
        finite = exact.isfinite()
        assert torch.equal(mine[~finite].nan_to_num(7.0), exact[~finite].nan_to_num(7.0))
        if finite.any():
            error, allowed = (float((x - exact)[finite].abs().max()) for x in (mine, plain))
            rounding = max(scale, float(exact[finite].abs().max())) * 2.0**-24
            assert error <= 2 * allowed + roundings * rounding, (
                f"error {error:.3g}, PyTorch's {allowed:.3g}, rounding {rounding:.3g}"
            )


def value_and_grads(run: Callable[..., Tensor], *inputs: Tensor, upstream: Tensor | None = None) -> list[Tensor]:
    """run(*inputs) and its gradients in all of `inputs`, which are copied."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = run(*leaves)
    out.backward(torch.ones_like(out) if upstream is None else upstream.to(out.dtype))
    return [out.detach(), *(x.grad for x in leaves if x.grad is not None)]


def gradient_of(leaf: Tensor) -> Tensor:
    """Its gradient, which it has."""
    assert leaf.grad is not None
    return leaf.grad


def tensors_on(constants: dict[str, object], device: torch.device) -> dict[str, Tensor]:
    """The tensors among a test module's constants, on `device`."""
    return {name: value.to(device) for name, value in constants.items() if isinstance(value, Tensor)}
