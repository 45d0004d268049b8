"""What the pretend device must notice: a host tensor, a wait, a wrong value. Each case breaks something on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from dmpo.decoding.canvas import Canvas
from dmpo.kernels.sampling import triton_kernels as sampling_triton
from tests.pretend_cuda import decoder_group
from tests.pretend_cuda.counts import counting
from tests.pretend_cuda.device import pretend_cuda
from tests.pretend_cuda.operators import DeviceMismatchError
from tests.pretend_cuda.tensor import on_device

TOPK = decoder_group.Case("topk")
CASES = {
    "host tensor in an operator": "operator",
    "host tensor in a decoder": "decoder",
    "host pointer in a kernel": "kernel",
    "copies": "copies",
    "item in a step": "item",
    "wrong value of a kernel": "value",
    "no fault": "none",
}


def measure(case: str) -> dict[str, Any]:
    """raised: the error, if there was one. syncs: of what was done. same: share of equal tokens, of a decoder."""
    if case in ("operator", "kernel", "copies"):
        return _raised(case)
    with FAULTS[case]():
        try:
            result = decoder_group.measure(TOPK)
        except DeviceMismatchError as error:
            return {"raised": str(error)}
    return {"same": result["same"], "syncs": [step["syncs"] for step in result["steps"]]}


def _raised(case: str) -> dict[str, Any]:
    device, host = on_device(torch.ones(4)), torch.ones(4)
    with pretend_cuda(), counting() as counted:
        try:
            if case == "operator":
                _ = device + 1.0 + torch.tensor(2.0) + host
            elif case == "kernel":
                ids = torch.arange(1)
                sampling_triton.sample(on_device(torch.ones(1, 300)), 1.0, 0, ids, [], "cdf")
            else:
                _ = device.cpu(), host.to("cuda"), device[torch.tensor([0])], device[device > 0], device[0].item()
                pinned = torch.tensor([1.0], pin_memory=True)
                _ = pinned.to("cuda", non_blocking=True)
        except DeviceMismatchError as error:
            return {"raised": str(error)}
    return {"syncs": dict(counted.syncs)}


@contextmanager
def _host_tensor() -> Iterator[None]:
    inputs = Canvas.inputs

    def with_host_tensor(self: Canvas, index: Any) -> Any:
        return inputs(self, index) + torch.zeros(1, dtype=torch.int64)

    with mock.patch.object(Canvas, "inputs", with_host_tensor):
        yield


@contextmanager
def _item() -> Iterator[None]:
    inputs = Canvas.inputs

    def with_item(self: Canvas, index: Any) -> Any:
        index[0].item()
        return inputs(self, index)

    with mock.patch.object(Canvas, "inputs", with_item):
        yield


@contextmanager
def _wrong_value() -> Iterator[None]:
    sample = sampling_triton.sample

    def wrong(*args: Any) -> Any:
        ids, confidence = sample(*args)
        return (ids + 1) % 50, confidence

    with mock.patch.object(sampling_triton, "sample", wrong):
        yield


@contextmanager
def _none() -> Iterator[None]:
    yield


FAULTS = {"decoder": _host_tensor, "item": _item, "value": _wrong_value, "none": _none}
