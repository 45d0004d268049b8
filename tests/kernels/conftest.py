"""Kernel tests choose between plain PyTorch and Triton, which runs in its interpreter on the CPU."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2]))  # benchmarks/ is not installed

import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError

from benchmarks.interpreter import interpreted
from dmpo.kernels import launch
from dmpo.kernels.extension import extension_status


@triton.jit
def _sum_in_pieces(source, total, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    found = tl.zeros([BLOCK], tl.float32)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        found += tl.load(source + at, mask=at < n, other=0.0)
    tl.store(total, tl.sum(found, 0))


@functools.cache
def interpreter_fault() -> str:
    """Why the interpreter cannot run a loop and a sum here (Triton 3.6 cannot with NumPy 2.4), or "" if it can."""
    total = torch.zeros(1)
    try:
        with interpreted():
            _sum_in_pieces[(1,)](torch.ones(5), total, 5, BLOCK=4)
    except InterpreterError as error:
        return str(error)
    assert total.item() == 5
    return ""


@pytest.fixture
def interpreter() -> Iterator[None]:
    """Ops on CPU tensors run the Triton kernels in the interpreter."""
    if interpreter_fault():
        pytest.skip(f"triton {triton.__version__}'s interpreter: {interpreter_fault()}")
    with interpreted():
        yield


@pytest.fixture
def path(request: pytest.FixtureRequest, device: torch.device) -> Iterator[str]:
    """The implementation a test's parameter names: "plain" PyTorch or the "triton" kernels, interpreted on the CPU."""
    if request.param == "triton" and device.type == "cpu":
        request.getfixturevalue("interpreter")
    with launch.plain_path(request.param == "plain"):
        assert launch.uses_triton(torch.zeros(1)) is (request.param == "triton")
        yield request.param


@pytest.fixture
def extension(device: torch.device) -> tuple[bool, str]:
    """Whether dmpo._C is built, and how; a test on a GPU is skipped where the extension has no CUDA sources."""
    built, how = extension_status()
    if device.type == "cuda" and not (built and "with CUDA sources" in how):
        pytest.skip(f"dmpo._C on a GPU: {how}")
    return built, how
