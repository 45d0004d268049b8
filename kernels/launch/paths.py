"""Which path a tensor takes: the Triton kernels, or plain PyTorch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # the plain PyTorch path needs no Triton
    triton = None
    tl = None

INTERPRETED = triton is not None and bool(triton.knobs.runtime.interpret)
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def jit(fn: Callable[..., Any], do_not_specialize: tuple[str, ...] = ()) -> Any:
    """`triton.jit`, or the bare function where Triton is not installed (it is then never launched)."""
    return fn if triton is None else triton.jit(fn, do_not_specialize=do_not_specialize)


_plain = os.environ.get("DMPO_PLAIN", "0") not in ("", "0")


@contextlib.contextmanager
def plain_path(enabled: bool = True) -> Iterator[None]:
    """Force (or, with False, allow again) Triton off inside the block; the environment variable DMPO_PLAIN=1 does it
    for good."""
    global _plain
    before, _plain = _plain, enabled
    try:
        yield
    finally:
        _plain = before


def on_device(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current GPU: make that the one `x` is on."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else contextlib.nullcontext()


def uses_triton(x: Tensor) -> bool:
    """True if ops on `x` run the Triton kernels: on a GPU, or on CPU tensors under TRITON_INTERPRET=1; never for
    float64."""
    if triton is None or _plain or x.dtype not in _FLOATS:
        return False
    return INTERPRETED if x.device.type == "cpu" else x.device.type == "cuda"


def kernel_status(device: str = "cpu") -> tuple[bool, str]:
    """(Triton kernels are used on `device`, why or why not), for `dmpo info`."""
    if _plain:
        return False, "DMPO_PLAIN=1 or plain_path() forces plain PyTorch"
    if triton is None:
        return False, "triton is not installed"
    if device == "cpu":
        return INTERPRETED, "TRITON_INTERPRET=1" if INTERPRETED else "CPU tensors take the plain PyTorch path"
    return device == "cuda", f"triton {triton.__version__}" if device == "cuda" else f"no Triton path for {device}"
