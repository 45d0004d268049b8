"""What the pretend device was asked to do: launches by operator, host synchronisations by kind and place."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from tests.pretend_cuda.hooks import ROOT

PROJECT = tuple(f"{ROOT / folder}/" for folder in ("dmpo", "kernels", "benchmarks"))
LIBRARIES = ("transformers", "peft", "accelerate")
ELSEWHERE = "elsewhere"


@dataclass
class Counts:
    """launches: by operator, or "triton NAME". syncs: by "KIND PLACE", see `place`."""

    launches: Counter[str] = field(default_factory=Counter)
    syncs: Counter[str] = field(default_factory=Counter)

    def __sub__(self, before: Counts) -> Counts:
        return Counts(self.launches - before.launches, self.syncs - before.syncs)

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.launches + other.launches, self.syncs + other.syncs)

    def copy(self) -> Counts:
        return Counts(self.launches.copy(), self.syncs.copy())

    def record(self) -> dict[str, dict[str, int]]:
        """As JSON has it."""
        return {"launches": dict(sorted(self.launches.items())), "syncs": dict(sorted(self.syncs.items()))}


so_far = Counts()
_silent = 0


def launch(name: str) -> None:
    """The device was given one kernel, or one copy."""
    if not _silent:
        so_far.launches[name] += 1


def sync(kind: str) -> None:
    """The host waited for the device."""
    if not _silent:
        so_far.syncs[f"{kind} {place()}"] += 1


@contextmanager
def silent() -> Iterator[None]:
    """Nothing is counted inside the block."""
    global _silent
    _silent += 1
    try:
        yield
    finally:
        _silent -= 1


@contextmanager
def counting() -> Iterator[Counts]:
    """What is counted inside the block; complete once it is left."""
    before, inside = so_far.copy(), Counts()
    try:
        yield inside
    finally:
        change = so_far - before
        inside.launches, inside.syncs = change.launches, change.syncs


def place() -> str:
    """FILE:FUNCTION of the innermost frame that is the project's, or FILE of one that is a library's.

    Comprehensions and lambdas count as the function around them, which they are from Python 3.12 on.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path, function = frame.f_code.co_filename, frame.f_code.co_name
        if path.startswith(PROJECT) and not function.startswith("<"):
            return f"{path[len(str(ROOT)) + 1 :]}:{function}"
        for library in LIBRARIES:
            if f"/site-packages/{library}/" in path:
                return f"{library}/{path.rsplit(f'/{library}/', 1)[1]}"
        frame = frame.f_back
    return ELSEWHERE
