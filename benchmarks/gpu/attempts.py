"""One measurement: whether time and memory suffice, and a note of it if they do not, or if it fails."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.records import GpuSetting, Note
from benchmarks.gpu.timing import synchronize


def attempt(setting: GpuSetting, note: Note, name: str, job: Callable[[], Any], seconds: float = 0.0) -> Any:
    """`job()`, or None where it is left out: too little time (`seconds` are needed) or memory, or a fault.

    A fault counts as a failed check, and the later measurements still run.
    """
    if not setting.rehearse and setting.remaining() < seconds:
        note(f"left out: {name}", reason=f"{setting.remaining():.0f} s are left, about {seconds:.0f} s are needed")
        return None
    try:
        return job()
    except torch.OutOfMemoryError as error:
        note(f"left out: {name}", reason=first_line(error))
    except Exception as error:
        traceback.print_exc()
        note(f"fault: {name}", ok=False, reason=f"{type(error).__name__}: {first_line(error)}")
    release(setting.device)
    return None


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["(no message)"])[0][:200]


def release(device: torch.device) -> None:
    """Free the memory that no tensor uses."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def peak_gb(device: torch.device, job: Callable[[], Any]) -> float | None:
    """Most of the device's memory (1e9 bytes) that tensors hold at once during `job()`, in all; None on a CPU."""
    if device.type != "cuda":
        job()
        return None
    synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    job()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) / 1e9
