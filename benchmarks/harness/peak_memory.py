"""How much memory does PyTorch hold at most on the CPU? The highest sum of live allocations, from the profiler."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def peak_bytes(run: Callable[[], Any]) -> int:
    """The most that PyTorch holds at once on the CPU in one call of `run`, above what is there before."""
    with allocations() as profile:
        run()
    return highest_sum(profile)


@contextmanager
def allocations() -> Iterator[Any]:
    """Record all allocations of the block; `highest_sum` reads the record afterwards.

    Garbage collection is off, so that frees inside the block match allocations inside it.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        with torch.autograd.profiler.profile(profile_memory=True, use_kineto=True) as profile:
            yield profile
    finally:
        if collects:
            gc.enable()


def highest_sum(profile: Any) -> int:
    """Bytes that were allocated at most at once, of what `allocations` recorded."""
    changes = [(e.start_ns(), e.nbytes()) for e in profile.kineto_results.events() if e.name() == "[memory]"]
    live = most = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        live += change
        most = max(most, live)
    return most
