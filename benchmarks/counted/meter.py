"""How many bytes does an op move, how many FLOPs does it do, how much does it allocate? Counted without a GPU.

Run under TRITON_INTERPRET=1. The meter counts:

- Triton kernels, in Triton's interpreter. A load or store counts popcount(mask) x item size, an atomic counts as a read
  and a write, a dot as 2mnk FLOPs. There is no model of caches: a tile that two programs read counts twice.
- PyTorch ops, in a dispatch mode below autograd, as `op_traffic` says; a matrix product is 2mnk FLOPs. The bytes are
  the least that a kernel for the op could move. That favours PyTorch, whose softmax reads a long row more than once. In
  `tiled_read` a product reads its operands for every tile of TILE x TILE results, as Triton's products do.
- Products of half-precision operands into float32. PyTorch has them on GPUs only, so a float32 product computes their
  values. `as_on_a_gpu` makes linear cross-entropy use them, with the byte limits of a GPU.
- Peak temporary memory: the highest sum of live PyTorch allocations, without those of before, from the profiler.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from benchmarks.counted.op_traffic import PRODUCTS, UNCOUNTED, bytes_behind, bytes_moved, is_view
from benchmarks.harness.peak_memory import allocations, highest_sum
from dmpo.kernels import head as lm_head

try:
    from triton.runtime import interpreter
except ImportError:  # without Triton only PyTorch ops are counted
    interpreter = None

TILE = 128  # rows, and columns, of the results that a block of threads computes together


@dataclass
class Traffic:
    """Counts in bytes, floating-point operations and launches; `by_op` has (bytes read, bytes written) of each name."""

    bytes_read: int = 0
    tiled_read: int = 0
    bytes_written: int = 0
    flops: int = 0
    launches: int = 0
    peak_bytes: int = 0
    by_op: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, name: str, read: int, written: int, flops: int = 0, launches: int = 0) -> None:
        self.bytes_read += read
        self.tiled_read += read
        self.bytes_written += written
        self.flops += flops
        self.launches += launches
        before = self.by_op.get(name, (0, 0))
        self.by_op[name] = (before[0] + read, before[1] + written)


def measure(run: Callable[[], Any]) -> Traffic:
    """The traffic, FLOPs and peak memory of one call of `run`. If `run` autotunes or caches, call it once before."""
    traffic = Traffic()
    with ExitStack() as stack:
        stack.enter_context(_triton_counted(traffic))
        stack.enter_context(_TorchCounter(traffic))
        profile = stack.enter_context(allocations())
        run()
    traffic.peak_bytes = highest_sum(profile)
    return traffic


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Linear cross-entropy runs as on a GPU: operands of products have the dtype of the inputs, and the byte limits are
    those for a GPU. On CPU tensors such products run inside `measure` alone."""

    def byte_limit(limit: int | None, defaults: dict[str, int], device: torch.device) -> int:
        return defaults["cuda"] if limit is None else limit

    with (
        mock.patch.object(lm_head, "head_of", lambda h, w, b: lm_head.Head(w, b, h.dtype)),
        mock.patch.object(lm_head, "byte_limit", byte_limit),
    ):
        yield


# ---------------------------------------------------------------------------------------------- Triton


@contextmanager
def _triton_counted(traffic: Traffic) -> Iterator[None]:
    if interpreter is None:
        yield
        return
    builder, grid = interpreter.InterpreterBuilder, interpreter.GridExecutor
    load, store, dot = builder.create_masked_load, builder.create_masked_store, builder.create_dot
    rmw, cas, launch = builder.create_atomic_rmw, builder.create_atomic_cas, grid.__call__
    kernel = ["?"]

    def counted_load(self: Any, ptrs: Any, mask: Any, *rest: Any) -> Any:
        traffic.add(kernel[0], int(mask.data.sum()) * _itemsize(ptrs), 0)
        return load(self, ptrs, mask, *rest)

    def counted_store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        traffic.add(kernel[0], 0, int(mask.data.sum()) * _itemsize(ptrs))
        return store(self, ptrs, value, mask, *rest)

    def counted_rmw(self: Any, op: Any, ptr: Any, value: Any, mask: Any, *rest: Any) -> Any:
        touched = int(mask.data.sum()) * _itemsize(ptr)
        traffic.add(kernel[0], touched, touched)
        return rmw(self, op, ptr, value, mask, *rest)

    def counted_cas(self: Any, ptr: Any, *rest: Any) -> Any:
        touched = ptr.data.size * _itemsize(ptr)
        traffic.add(kernel[0], touched, touched)
        return cas(self, ptr, *rest)

    def counted_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        traffic.add(kernel[0], 0, 0, flops=2 * a.data.size * b.data.shape[-1])
        return dot(self, a, b, *rest)

    def counted_launch(self: Any, *args: Any, **kwargs: Any) -> Any:
        kernel[0] = getattr(self.fn, "__name__", "?")
        traffic.add(kernel[0], 0, 0, launches=1)
        with _disable_current_modes():  # copies that the interpreter makes are no traffic of the kernel
            return launch(self, *args, **kwargs)

    with ExitStack() as stack:
        for owner, name, new in (
            (builder, "create_masked_load", counted_load),  # create_load and create_store go through these two
            (builder, "create_masked_store", counted_store),
            (builder, "create_atomic_rmw", counted_rmw),
            (builder, "create_atomic_cas", counted_cas),
            (builder, "create_dot", counted_dot),
            (grid, "__call__", counted_launch),
        ):
            stack.enter_context(mock.patch.object(owner, name, new))
        yield


def _itemsize(pointers: Any) -> int:
    return max(1, pointers.get_element_ty().primitive_bitwidth // 8)


# ---------------------------------------------------------------------------------------------- PyTorch


class _TorchCounter(TorchDispatchMode):
    """Counts aten ops, and looks inside custom ops."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self.traffic = traffic

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace not in ("aten", "prims", "prim"):
            with self:  # run the op's Python implementation; the ops inside it come here again
                return OPDEFS[func._schema.name]._init_fn(*args, **kwargs)
        into_float32 = func in (torch.ops.aten.mm.dtype_out, torch.ops.aten.addmm.dtype_out)
        on_cpu = into_float32 and args[0].device.type == "cpu"
        out = _float32_product(*args[:-1], out=kwargs["out"]) if on_cpu else func(*args, **kwargs)
        name = func._schema.name.split("::")[1]
        if name not in UNCOUNTED and not is_view(func):
            read, written = bytes_moved(func, name, args, kwargs, out)
            flops = again = 0
            if name.rstrip("_") in PRODUCTS:
                left, right = args[PRODUCTS[name.rstrip("_")] :][:2]
                width = right.shape[-1] if right.dim() > left.dim() - 1 else 1
                flops = 2 * left.numel() * width
                again = (-(-width // TILE) - 1) * bytes_behind(left)
                again += (-(-left.shape[-2] // TILE) - 1) * bytes_behind(right)
            self.traffic.add(name, read, written, flops=flops, launches=1)
            self.traffic.tiled_read += again
        return out


def _float32_product(*factors: Tensor, out: Tensor) -> Tensor:
    """out = a @ b, or into + a @ b for three `factors`. NumPy makes the float32 copies: a GPU makes none to count."""
    *into, a, b = factors
    product = _as_float32(a) @ _as_float32(b)
    np.copyto(out.numpy(), product + into[0].numpy() if into else product)
    return out


def _as_float32(x: Tensor) -> np.ndarray[Any, Any]:
    if x.dtype == torch.bfloat16:  # NumPy does not have it; it is the upper half of a float32
        return (x.view(torch.int16).numpy().astype(np.uint32) << 16).view(np.float32)
    return x.numpy().astype(np.float32)


def names(traffic: Traffic, top: int = 8) -> str:
    """The `top` ops that move the most bytes, as text."""
    heavy = Counter({name: read + written for name, (read, written) in traffic.by_op.items()})
    return ", ".join(f"{name} {moved / 1e6:.2f} MB" for name, moved in heavy.most_common(top))
