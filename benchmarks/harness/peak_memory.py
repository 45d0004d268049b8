"""How much memory does PyTorch use at most on the CPU? The highest sum of live allocations, from the profiler."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def peak_bytes(run: Callable[[], Any]) -> int:
    """The highest sum of live PyTorch allocations on the CPU in one call of `run`, without those of before."""
    with allocations() as profile:
        run()
    return highest_sum(profile)


@contextmanager
def allocations() -> Iterator[Any]:
    """Record all allocations inside the `with`; `highest_sum` reads the record afterwards.

    Garbage collection is off, so that frees inside the `with` match allocations inside it.
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
    """The highest sum of live allocations in bytes, from a record of `allocations`."""
    changes = [(e.start_ns(), e.nbytes()) for e in profile.kineto_results.events() if e.name() == "[memory]"]
    live = most = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        live += change
        most = max(most, live)
    return most
