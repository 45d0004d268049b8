"""The output head, lm_head: its logits tile by tile, and the products of linear cross-entropy and of sampling.

Products of half-precision inputs accumulate in float32 and stay float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from . import launch
from .arithmetic import accumulation_dtype


@dataclass(frozen=True)
class Head:
    """Weight and bias; `tile` returns vocabulary tiles in the dtype of the products' operands."""

    weight: Tensor  # [V, H]
    bias: Tensor | None  # [V]
    compute: torch.dtype  # operands of products: the dtype of the inputs on a GPU, the accumulation dtype on a CPU

    def tile(self, first: int, columns: int) -> Tensor:
        return self.weight[first : first + columns].to(self.compute)

    def logits(self, hidden: Tensor, first: int, out: Tensor) -> Tensor:
        """hidden @ weight[first:].T + bias into `out` [R, columns]; returns the tile of the weight."""
        tile = self.tile(first, out.shape[1])
        product(hidden, tile.t(), out)
        if self.bias is not None:
            out.add_(self.bias[first : first + out.shape[1]].to(out.dtype))
        return tile


def head_of(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Head:
    """The head for products with `hidden`."""
    on_gpu = hidden.device.type == "cuda"
    compute = hidden.dtype if on_gpu and launch.uses_triton(hidden) else accumulation_dtype(hidden.dtype)
    return Head(weight, bias, compute)


def byte_limit(requested: int | None, defaults: dict[str, int], device: torch.device) -> int:
    """`requested`, or the default of the device."""
    return defaults.get(device.type, defaults["cpu"]) if requested is None else requested


def product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """out = a @ b, accumulated in the dtype of `out`; half-precision operands on a GPU only."""
    return torch.mm(a, b, out=out) if a.dtype == out.dtype else torch.mm(a, b, out_dtype=out.dtype, out=out)


def add_product(into: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """into += a @ b in place, accumulated in the dtype of `into`; half-precision operands on a GPU only."""
    # PyTorch's FLOP counters do not know `addmm_`, which has no out_dtype either.
    if a.dtype == into.dtype:
        return torch.addmm(into, a, b, out=into)
    return torch.addmm(into, a, b, out_dtype=into.dtype, out=into)


def accumulate(into: Tensor, a: Tensor, b: Tensor, *, fresh: bool = False) -> None:
    """into += a @ b in the dtype of `into`. fresh: into = a @ b, whatever `into` contains."""
    (product(a, b, into) if fresh else add_product(into, a, b))


@contextmanager
def op_context(hidden: Tensor) -> Iterator[None]:
    """Inside an op: products keep the dtype of their operands, and launches go to the device of `hidden`."""
    with torch.autocast(hidden.device.type, enabled=False), launch.on_device(hidden):
        yield
