"""Where a test runs: the CPU, or a GPU where there is one.

A test that asks for the fixture `device` runs on every device of the session. Inside it, a tensor that a file under
tests/ creates (`torch.zeros(...)`) lies on that device. Random values are drawn on the CPU first, so that they are the
same on every device. A tensor that the package creates lies where the package puts it: were it moved, too, a mix of
host and device tensors in the package would go unseen.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._triton import has_triton

if TYPE_CHECKING:
    from accelerate import Accelerator  # which takes seconds to import, and few tests need

CPU = torch.device("cpu")
CUDA_IS_HERE = torch.cuda.is_available()  # asked before `hide_cuda`
CREATORS = frozenset(
    {torch.tensor, torch.empty, torch.zeros, torch.ones, torch.full, torch.eye, torch.arange, torch.linspace}
)
DRAWS = frozenset({torch.rand, torch.randn, torch.randint, torch.randperm})
TESTS = str(Path(__file__).parent) + os.sep

_current = CPU
_is_available, _visible_devices = torch.cuda.is_available, os.environ.get("CUDA_VISIBLE_DEVICES")


def why_no_gpu() -> str:
    """One line: why the tests marked gpu cannot run."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return f"torch {torch.__version__} sees no CUDA device"


def current() -> torch.device:
    """The device of the running test."""
    return _current


def accelerator() -> Accelerator:
    """One on the device of the running test."""
    from accelerate import Accelerator

    return Accelerator(cpu=_current.type == "cpu")


def float64_tolerance(rtol: float, atol: float) -> dict[str, Any]:
    """Of float64 gradients of one loss that is split in two ways. The models' norms are float32 inside; on a GPU their
    rounding depends on the number of rows, on the CPU it does not."""
    return {"rtol": rtol, "atol": atol} if _current.type == "cpu" else {"rtol": 1e-5, "atol": 1e-6}


class _TensorsOfTests(TorchFunctionMode):
    """Moves what files under tests/ create to `device`."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (func not in CREATORS and func not in DRAWS) or kwargs.get("device") is not None:
            return func(*args, **kwargs)
        if not sys._getframe(1).f_code.co_filename.startswith(TESTS):
            return func(*args, **kwargs)
        if func in CREATORS:
            return func(*args, **kwargs, device=self.device)
        drawn = func(*args, **kwargs)
        return drawn.detach().to(self.device).requires_grad_(drawn.requires_grad)


@contextmanager
def on(device: torch.device) -> Iterator[None]:
    """Run a test on `device` inside the block; `hide_cuda` does not hold there."""
    from accelerate.state import AcceleratorState

    global _current
    _current = device
    if CUDA_IS_HERE:
        _show_cuda(True)
    AcceleratorState._reset_state(reset_partial_state=True)  # Accelerate keeps the process's first device
    try:
        with _TensorsOfTests(device):
            yield
    finally:
        _current = CPU
        AcceleratorState._reset_state(reset_partial_state=True)
        if CUDA_IS_HERE:
            _show_cuda(False)


# ---------------------------------------------------------------------------------------------- other tests


def hide_cuda() -> None:
    """Let every other test of this process, and every process that it starts, see a machine without a GPU."""
    if CUDA_IS_HERE:
        torch.cuda.init()  # after this, CUDA_VISIBLE_DEVICES matters to child processes alone
        _show_cuda(False)


def _show_cuda(shown: bool) -> None:
    torch.cuda.is_available = _is_available if shown else lambda: False
    has_triton.cache_clear()  # what torch.compile remembers of it
    if shown and _visible_devices is None:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = (_visible_devices or "") if shown else ""
