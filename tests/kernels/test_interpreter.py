"""If these fail, a process that interpreted a kernel cannot compile one, or TRITON_INTERPRET=1 no longer does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import JITFunction
from triton.runtime.errors import InterpreterError

from benchmarks.counted.cubin import compile_kernel
from benchmarks.counted.interpreter import interpreted
from dmpo.kernels import launch
from dmpo.kernels.launch import LaunchConfig, production_kernel

ROOT = Path(__file__).parents[2]
LANGUAGE = (tl, tl.core, tl.math, tl.tensor, tl.dtype, tl.condition)


@triton.jit
def _double(x):  # type: ignore[no-untyped-def]
    return x * 2


@triton.jit
def _largest(source, sink, n, FAIL: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.arange(0, BLOCK)
    x = tl.load(source + at, mask=at < n, other=float("-inf"))
    tl.static_assert(not FAIL)
    tl.store(sink, _double(tl.max(x, 0)))


def state() -> dict[tuple[str, str], object]:
    """What the interpreter patches."""
    names = {"run", "__call__"}
    language = {(owner.__name__, name): value for owner in LANGUAGE for name, value in vars(owner).items()}
    return language | {(JITFunction.__name__, name): vars(JITFunction)[name] for name in names}


def test_the_same_kernel_is_interpreted_and_compiled(
    interpreter: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interpreted first, as its calls of other kernels patch the language."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))  # so that it is compiled indeed
    source, sink = torch.tensor([1.0, 4.0, 2.0]), torch.zeros(1)
    _largest[(1,)](source, sink, 3, FAIL=False, BLOCK=4)
    assert sink.item() == 8
    types, constants = {"source": "*fp32", "sink": "*fp32", "n": "i32"}, {"FAIL": False, "BLOCK": 128}
    kernel = production_kernel("largest", _largest, 90, types, constants, LaunchConfig(128, 1), wide_loads=False)
    assert compile_kernel(kernel, ptx=True).faults() == []


@pytest.mark.parametrize("fail", [False, True])
def test_nothing_is_left_patched(interpreter: None, fail: bool) -> None:
    def run() -> None:
        _largest[(1,)](torch.ones(3), torch.zeros(1), 3, FAIL=fail, BLOCK=4)

    with interpreted():  # its first launch gives types a __repr__ that triton makes lazily
        _largest[(1,)](torch.ones(3), torch.zeros(1), 3, FAIL=False, BLOCK=4)
    before = state()
    with interpreted():
        if fail:
            with pytest.raises(InterpreterError):
                run()
        else:
            run()
    after = state()
    assert {key for key in before | after if before.get(key) is not after.get(key)} == set()


def test_cpu_tensors_take_triton_inside_the_block_alone(interpreter: None) -> None:
    x = torch.zeros(1)
    assert launch.uses_triton(x)
    assert launch.kernel_status() == (True, "TRITON_INTERPRET=1")


def test_cpu_tensors_take_plain_pytorch_by_default() -> None:
    assert not launch.uses_triton(torch.zeros(1))
    assert launch.kernel_status() == (False, "CPU tensors take the plain PyTorch path")


def test_the_environment_chooses_the_interpreter_too() -> None:
    code = """
import torch
from triton.runtime.interpreter import InterpretedFunction
from dmpo.kernels import launch, masked_token_logprobs, reference
from dmpo.kernels.masked_ce import triton_kernels as masked_ce_triton
x, targets = torch.randn(2, 3, 40), torch.zeros(2, 3, dtype=torch.int64)
assert launch.uses_triton(x) and isinstance(masked_ce_triton._forward_kernel, InterpretedFunction)
ours, exact = masked_token_logprobs(x, targets), reference.masked_token_logprobs(x.double(), targets)
torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=1e-6)
"""
    env = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
