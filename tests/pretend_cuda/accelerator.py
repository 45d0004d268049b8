"""accelerate on the pretend device: its device is cuda:0, and models are taken as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from accelerate import Accelerator
from accelerate.state import AcceleratorState

from tests.pretend_cuda.tensor import CUDA


@contextmanager
def on_pretend_cuda() -> Iterator[None]:
    """Every Accelerator that is made, or used, inside the block."""

    def prepare(self: Accelerator, *parts: Any) -> Any:
        return parts if len(parts) > 1 else parts[0]

    AcceleratorState._reset_state(True)
    with (
        mock.patch.object(Accelerator, "device", property(lambda self: CUDA)),
        mock.patch.object(Accelerator, "prepare", prepare),
    ):
        yield
    AcceleratorState._reset_state(True)


@contextmanager
def on_cpu() -> Iterator[None]:
    """Every Accelerator that is made inside the block is new."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)
