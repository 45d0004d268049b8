"""How long does a job take, and how much memory does it use at most? On a CPU, and on a GPU by CUDA events.

On a GPU every repetition starts with a cold L2 cache: before it, outside the two events that time the job, a buffer of
twice the cache's size is written. The host does not wait between repetitions, so launches overlap with earlier work, as
in a model.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import cuda

from benchmarks.harness.peak_memory import peak_bytes
from benchmarks.harness.setting import Setting

Job = Callable[[], Any]
Result = TypeVar("Result")


def _nothing() -> None:
    pass


class Gauge(Protocol):
    """Time and memory of one kind of device."""

    def times(
        self, job: Job, *, before: Job = _nothing, budget: float = 1.5, least: int = 3, most: int = 50
    ) -> list[float]:
        """Seconds of each repetition after one that warms up; as many as fit into `budget` seconds.

        before: called before each repetition, not timed.
        """

    def peak(self, job: Job) -> int:
        """The most bytes that one call of `job` adds to the memory in use."""

    def wait(self) -> None:
        """Wait until the device has finished its work."""

    def watch(self) -> Watch:
        """Start to watch the memory of this process on the device."""


class Watch(Protocol):
    """The most memory in use, above the memory in use when this object was made."""

    def peak(self) -> int:
        """The most bytes since the last call."""

    def stop(self) -> int:
        """As `peak`, for the last time."""


def gauge(setting: Setting) -> Gauge:
    return CudaGauge() if setting.device == "cuda" else CpuGauge()


def timed_steps(on: Gauge, step: Callable[[], Result], count: int) -> tuple[Result, dict[str, list[float]]]:
    """The result of the last of `count` steps, and {"seconds", "cpu_seconds"} of each; every step starts on an idle
    device. CPU seconds of one thread are right on a busy machine, too.

    Raises:
        ValueError: count is less than 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    times: dict[str, list[float]] = {"seconds": [], "cpu_seconds": []}
    for _ in range(count):
        on.wait()
        start, cpu_start = time.perf_counter(), time.process_time()
        result = step()
        on.wait()
        times["seconds"].append(time.perf_counter() - start)
        times["cpu_seconds"].append(time.process_time() - cpu_start)
    return result, times


class CpuGauge:
    """Wall clock. `peak` counts PyTorch's allocations, `watch` the resident set of the process."""

    def times(
        self, job: Job, *, before: Job = _nothing, budget: float = 1.5, least: int = 3, most: int = 50
    ) -> list[float]:
        before()
        job()
        found: list[float] = []
        begun = time.perf_counter()
        while len(found) < least or (time.perf_counter() - begun < budget and len(found) < most):
            before()
            start = time.perf_counter()
            job()
            found.append(time.perf_counter() - start)
        return found

    def peak(self, job: Job) -> int:
        return peak_bytes(job)

    def wait(self) -> None:
        pass

    def watch(self) -> Watch:
        return ResidentWatch()


class CudaGauge:
    """CUDA events, and the memory of PyTorch's allocator."""

    def __init__(self) -> None:
        size = 2 * cuda.get_device_properties().L2_cache_size
        self.buffer = torch.empty(size, dtype=torch.uint8, device=Setting("cuda").place)

    def times(
        self, job: Job, *, before: Job = _nothing, budget: float = 1.5, least: int = 3, most: int = 50
    ) -> list[float]:
        before()
        job()  # compiles, autotunes, allocates
        once = self._times(job, before, 1)[0]
        return self._times(job, before, max(least, min(most, int(budget / max(once, 1e-6)))))

    def split(self, job: Job, *, before: Job = _nothing, repetitions: int = 10) -> tuple[list[float], list[float]]:
        """Seconds of the device alone, and of the host alone, of each repetition after one that warms up.

        Flushes keep the device busy until the host has launched the whole job, with twice the time to spare: its
        kernels then follow one another without a gap. If the job waits for the device, the device's seconds have that
        time, too.
        """
        before()
        job()
        hosts = []
        for _ in range(repetitions):
            self.wait()
            before()
            begun = time.perf_counter()
            job()
            hosts.append(time.perf_counter() - begun)
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        start.record()
        self.buffer.zero_()
        end.record()
        self.wait()
        flush = max(start.elapsed_time(end) / 1e3, 1e-6)
        lead = 1 + int(2 * max(hosts) / flush)
        return self._times(job, before, repetitions, lead=lead), hosts

    def _times(self, job: Job, before: Job, repetitions: int, *, lead: int = 1) -> list[float]:
        """lead: flushes before each start, at least one of which leaves the cache cold."""
        pairs = [(cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)) for _ in range(repetitions)]
        for start, end in pairs:
            before()
            for _ in range(lead):
                self.buffer.zero_()
            start.record()
            job()
            end.record()
        self.wait()
        return [start.elapsed_time(end) / 1e3 for start, end in pairs]

    def peak(self, job: Job) -> int:
        cuda.empty_cache()
        watch = self.watch()
        job()
        return watch.stop()

    def wait(self) -> None:
        cuda.synchronize()

    def watch(self) -> Watch:
        return AllocatedWatch()


class AllocatedWatch:
    """By the counters of PyTorch's CUDA allocator."""

    def __init__(self) -> None:
        cuda.synchronize()
        cuda.reset_peak_memory_stats()
        self.base = cuda.memory_allocated()

    def peak(self) -> int:
        cuda.synchronize()
        found = cuda.max_memory_allocated() - self.base
        cuda.reset_peak_memory_stats()
        return int(found)

    def stop(self) -> int:
        return self.peak()


class ResidentWatch:
    """By the resident set of this process (Linux), read every 2 ms."""

    def __init__(self) -> None:
        self.base = self.most = resident_bytes()
        self.running = True
        self.lock = threading.Lock()  # a look that began before a reset must not bring the old peak back
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self) -> None:
        while self.running:
            with self.lock:
                self.most = max(self.most, resident_bytes())
            time.sleep(0.002)

    def peak(self) -> int:
        with self.lock:
            highest = max(self.most, resident_bytes())
            self.most = resident_bytes()
        return highest - self.base

    def stop(self) -> int:
        self.running = False
        self.thread.join()
        return self.peak()


def resident_bytes() -> int:
    """Resident set of this process (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Phases:
    """Seconds and peak bytes of named phases; phases of one name add up.

    Called with a name it is a context that times its body: the clock that `dmpo.rollouts.rollout.collect` takes. Peaks
    are above the memory in use when this object was made.
    """

    def __init__(self, on: Gauge) -> None:
        self.gauge, self.watch = on, on.watch()
        self.seconds: dict[str, float] = {}
        self.bytes: dict[str, int] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.gauge.wait()
        self.watch.peak()  # earlier work belongs to no phase
        start = time.perf_counter()
        yield
        self.gauge.wait()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        self.bytes[name] = max(self.bytes.get(name, 0), self.watch.peak())

    def clear(self) -> None:
        """Forget the phases so far; the memory in use at the beginning stays the base."""
        self.seconds.clear()
        self.bytes.clear()

    def stop(self) -> dict[str, dict[str, float]]:
        """{phase: {"seconds", "bytes"}}."""
        self.watch.stop()
        return {name: {"seconds": self.seconds[name], "bytes": self.bytes[name]} for name in self.seconds}
