"""How long does a job keep the device, and how long the host that gives it the work?"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Timing:
    """Medians, in seconds. device_seconds: from the start to the end of the work on the device.

    host_seconds: from the call of the job to its return. If the job waits for the device, both are about the same. CUDA
    queues about 1000 launches, so in a longer job that the device limits the host waits: host_seconds is then an upper
    bound. On a CPU both are the same.
    """

    device_seconds: float
    host_seconds: float


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(device: torch.device, job: Callable[[], Any], repeats: int = 10, warm: int = 2) -> Timing:
    """Times of `job()` after `warm` calls that are not timed. Every timed call starts on an idle device."""
    for _ in range(warm):
        job()
    device_times, host_times = [], []
    for _ in range(repeats):
        synchronize(device)
        if device.type == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
        begun = time.perf_counter()
        job()
        host_times.append(time.perf_counter() - begun)
        if device.type == "cuda":
            end.record()
            synchronize(device)
            device_times.append(start.elapsed_time(end) / 1e3)
    host = statistics.median(host_times)
    return Timing(statistics.median(device_times) if device_times else host, host)
