"""A `torch.cuda` with a clock of its own: work is queued, and only what has been waited for can be read."""

from __future__ import annotations

from types import SimpleNamespace


class FakeCuda:
    """Time in milliseconds. queued: end of the work launched so far; done: of that which was waited for; host: the
    host's own clock, which stands still unless a job works there."""

    L2 = 1000

    def __init__(self, name: str = "NVIDIA H100 80GB HBM3") -> None:
        self.name, self.queued, self.done, self.waits, self.cold = name, 0.0, 0.0, 0, False
        self.allocated = self.peak = 0
        self.host = 0.0

    def perf_counter(self) -> float:
        return self.host / 1e3

    def run(self, milliseconds: float) -> None:
        """A kernel: it leaves its inputs in the cache."""
        self.queued = max(self.queued, self.host) + milliseconds
        self.cold = False

    def hold(self, count: int) -> None:
        """Allocate, or free, so that `count` bytes are held."""
        self.allocated = count
        self.peak = max(self.peak, count)

    def buffer(self) -> SimpleNamespace:
        """One that takes 100 ms to write, and empties the cache."""

        def zero_() -> None:
            self.run(100)
            self.cold = True

        return SimpleNamespace(zero_=zero_)

    def Event(self, *, enable_timing: bool) -> _Event:  # noqa: N802 - torch's name
        assert enable_timing
        return _Event(self)

    def synchronize(self) -> None:
        self.waits, self.done = self.waits + 1, max(self.queued, self.host)
        self.host = self.done if self.host else 0.0

    def is_available(self) -> bool:
        return True

    def get_device_name(self) -> str:
        return self.name

    def get_device_properties(self) -> SimpleNamespace:
        return SimpleNamespace(L2_cache_size=self.L2)

    def memory_allocated(self) -> int:
        return self.allocated

    def max_memory_allocated(self) -> int:
        return self.peak

    def reset_peak_memory_stats(self) -> None:
        self.peak = self.allocated

    def empty_cache(self) -> None:
        pass


class _Event:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.at = cuda, -1.0

    def record(self) -> None:
        self.at = max(self.cuda.queued, self.cuda.host)

    def elapsed_time(self, end: _Event) -> float:
        assert 0 <= self.at <= end.at <= self.cuda.done, "read before it has happened"
        return end.at - self.at
