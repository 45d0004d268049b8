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
    """`triton.jit`, or the bare function, which is never launched, if Triton is not installed."""
    return fn if triton is None else triton.jit(fn, do_not_specialize=do_not_specialize)


_plain = os.environ.get("DMPO_PLAIN", "0") not in ("", "0")


@contextlib.contextmanager
def plain_path(enabled: bool = True) -> Iterator[None]:
    """Force plain PyTorch inside the `with`, or allow Triton again (False). DMPO_PLAIN=1 in the environment forces it
    for the whole process."""
    global _plain
    before, _plain = _plain, enabled
    try:
        yield
    finally:
        _plain = before


def on_device(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Make the device of `x` the current GPU, on which Triton launches."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else contextlib.nullcontext()


def uses_triton(x: Tensor) -> bool:
    """True if ops on `x` run the Triton kernels: on a GPU, or on a CPU under TRITON_INTERPRET=1; never for float64."""
    if triton is None or _plain or x.dtype not in _FLOATS:
        return False
    return INTERPRETED if x.device.type == "cpu" else x.device.type == "cuda"


def kernel_status(device: str = "cpu") -> tuple[bool, str]:
    """Whether Triton kernels run on `device`, and why, for `dmpo info`."""
    if _plain:
        return False, "DMPO_PLAIN=1 or plain_path() forces plain PyTorch"
    if triton is None:
        return False, "triton is not installed"
    if device == "cpu":
        return INTERPRETED, "TRITON_INTERPRET=1" if INTERPRETED else "CPU tensors take the plain PyTorch path"
    return device == "cuda", f"triton {triton.__version__}" if device == "cuda" else f"no Triton path for {device}"
