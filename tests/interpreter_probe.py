"""Can Triton's interpreter run here?"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError

from benchmarks.counted.interpreter import interpreted


@triton.jit
def _sum_in_pieces(source, total, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    sums = tl.zeros([BLOCK], tl.float32)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        sums += tl.load(source + at, mask=at < n, other=0.0)
    tl.store(total, tl.sum(sums, 0))


@functools.cache
def interpreter_fault() -> str:
    """Why the interpreter cannot run a loop and a sum here (Triton 3.6 cannot with NumPy 2.4), or "" if it can."""
    total = torch.zeros(1)
    try:
        with interpreted():
            _sum_in_pieces[(1,)](torch.ones(5), total, 5, BLOCK=4)
    except InterpreterError as error:
        return f"triton {triton.__version__}: {error}"
    assert total.item() == 5
    return ""
