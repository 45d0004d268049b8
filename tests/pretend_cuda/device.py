"""`pretend_cuda`: inside it cuda:0 is there, and dmpo takes its paths for a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from triton.runtime import interpreter

from benchmarks.counted.interpreter import quick_interpreter
from dmpo.kernels import launch
from dmpo.kernels.remask import extension
from tests.pretend_cuda import counts
from tests.pretend_cuda.attention import attention
from tests.pretend_cuda.operators import PINNED, DeviceMismatchError, DeviceMode
from tests.pretend_cuda.tensor import device_tensors, host_tensors, on_host

_tensor, _as_tensor, _run_grid = torch.tensor, torch.as_tensor, interpreter.GridExecutor.__call__
_WITH_CUDA = SimpleNamespace(build_info=lambda: {"cuda": True, "reason": "pretend", "torch": torch.__version__})


@contextmanager
def pretend_cuda() -> Iterator[None]:
    """Triton's kernels run in its interpreter on the memory underneath, and those of csrc/ on the CPU.

    Raises RuntimeError where the process was not started by `run`, which loads the hooks before torch.
    """
    if not launch.paths.INTERPRETED:
        raise RuntimeError("TRITON_INTERPRET=1 must be set before Triton is imported")
    with ExitStack() as stack:
        for target, name, value in (
            (torch, "tensor", tensor),
            (torch, "as_tensor", as_tensor),
            (torch.nn.functional, "scaled_dot_product_attention", attention),
            (torch.cuda, "device", lambda device: nullcontext()),
            (torch.cuda, "_lazy_init", lambda: None),
            (torch.cuda, "manual_seed", lambda seed: None),
            (torch.cuda, "manual_seed_all", lambda seed: None),
            (interpreter.GridExecutor, "__call__", _launch),
            (extension, "_module", _WITH_CUDA),
            (extension, "_has_cuda", True),
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        stack.enter_context(quick_interpreter())
        stack.enter_context(launch.plain_path(False))
        stack.enter_context(DeviceMode())
        yield


def _launch(self: Any, *args: Any, **kwargs: Any) -> None:
    """One launch of a Triton kernel; pointers to the host's memory are refused."""
    if device_tensors(args, kwargs):
        if strangers := host_tensors(args, kwargs):
            shapes = ", ".join(f"{x.dtype} {list(x.shape)}" for x in strangers)
            raise DeviceMismatchError(f"kernel {self.fn.__name__} got pointers to the host's memory: {shapes}")
        counts.launch(f"triton {self.fn.__name__}")
    with torch.utils._python_dispatch._disable_current_modes():
        _run_grid(self, *on_host(args), **on_host(kwargs))


def tensor(*args: Any, device: Any = None, pin_memory: bool = False, **kwargs: Any) -> Any:
    """`torch.tensor`, whose copy to a device no dispatch mode sees."""
    made = _tensor(*args, **kwargs)
    setattr(made, PINNED, pin_memory)
    return made if device is None else made.to(device)


def as_tensor(values: Any, dtype: Any = None, device: Any = None) -> Any:
    """`torch.as_tensor`, likewise."""
    if isinstance(values, torch.Tensor):
        return values.to(device=device, dtype=dtype)
    return tensor(values, dtype=dtype, device=device)
