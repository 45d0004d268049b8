"""If these fail, a time or a memory peak is wrong: it includes the flush, the cache is warm, or nobody waited."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from benchmarks.gpu import timing
from benchmarks.harness import clock
from benchmarks.harness.clock import CpuGauge, CudaGauge, Phases, ResidentWatch
from benchmarks.harness.setting import Setting
from tests.benchmarks.fake_cuda import FakeCuda


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(clock, "cuda", fake)
    monkeypatch.setattr(Setting, "place", torch.device("cpu"))
    return fake


def gauge(cuda: FakeCuda) -> CudaGauge:
    made = CudaGauge()
    assert len(made.buffer) == 2 * cuda.L2
    made.buffer = cuda.buffer()  # type: ignore[assignment]
    return made


def test_events_time_the_job_alone_on_a_cold_cache(cuda: FakeCuda) -> None:
    """Runs take 1, 2, 3 … ms; the flush and what comes before are not timed, and nothing waits in between."""
    on, lengths = gauge(cuda), iter(range(1, 100))
    seen: list[str] = []

    def job() -> None:
        assert cuda.cold or "job" not in seen, "the L2 cache holds what the last run left"
        seen.append("job")
        cuda.run(next(lengths))

    def before() -> None:
        seen.append("before")
        cuda.run(50)

    times = on.times(job, before=before, budget=0.008, least=2, most=10)
    assert seen == ["before", "job"] * (2 + 4), "a warm-up, one run to see how long it takes, and 8 ms' worth of 2 ms"
    assert times == pytest.approx([0.003, 0.004, 0.005, 0.006])
    assert cuda.waits == 2, "once after the first run, once after all the others"


def test_device_and_host_are_told_apart(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of five kernels of 1 ms, each launched after 150 ms of Python: events alone measure Python."""
    on = gauge(cuda)
    monkeypatch.setattr(clock.time, "perf_counter", cuda.perf_counter)
    cuda.host = 1.0

    def job() -> None:
        for _ in range(5):
            cuda.host += 150
            cuda.run(1)

    assert min(on.times(job, least=2, most=2)) > 0.6
    device, host = on.split(job, repetitions=3)
    assert host == pytest.approx([0.75] * 3)
    assert device == pytest.approx([0.005] * 3)


def test_repetitions_stay_within_their_limits(cuda: FakeCuda) -> None:
    on = gauge(cuda)
    assert len(on.times(lambda: cuda.run(1000), budget=0.1, least=3)) == 3
    assert len(on.times(lambda: cuda.run(0.001), budget=0.1, most=7)) == 7


def test_peak_is_above_what_was_allocated_before(cuda: FakeCuda) -> None:
    on = gauge(cuda)
    cuda.hold(500)
    cuda.hold(100)

    def job() -> None:
        cuda.hold(130)
        cuda.hold(110)

    assert on.peak(job) == 30
    assert on.peak(lambda: cuda.hold(115)) == 5, "of this job, not of the one before"


def test_phases_add_up_and_keep_their_peaks_apart(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda.hold(1000)
    phases = Phases(gauge(cuda))
    monkeypatch.setattr(clock.time, "perf_counter", lambda: cuda.done)  # the host sees what has been waited for

    def phase(name: str, *held: int, milliseconds: float) -> None:
        with phases(name):
            for count in held:
                cuda.hold(count)
            cuda.run(milliseconds)

    phase("warm-up", 9000, 1000, milliseconds=5)
    phases.clear()
    phase("rollout", 1500, 1100, milliseconds=10)
    phase("update", 1200, 1100, milliseconds=20)
    cuda.hold(5000)  # belongs to no phase
    cuda.hold(1000)
    phase("rollout", 1300, 1000, milliseconds=30)
    assert phases.stop() == {
        "rollout": {"seconds": pytest.approx(40), "bytes": 500},
        "update": {"seconds": pytest.approx(20), "bytes": 200},
    }


def test_a_cpu_job_is_warmed_up_and_repeated() -> None:
    calls: list[str] = []
    times = CpuGauge().times(lambda: calls.append("job"), before=lambda: calls.append("before"), budget=0.0, least=4)
    assert calls == ["before", "job"] * 5
    assert len(times) == 4
    assert min(times) >= 0


def test_peak_of_a_cpu_job_is_what_torch_allocates() -> None:
    kept: list[Any] = [torch.zeros(500_000)]

    def job() -> None:
        first = torch.zeros(100_000)
        second = first + 1
        del first, second

    assert 800_000 <= CpuGauge().peak(job) < 810_000
    assert kept


def test_resident_memory_is_watched() -> None:
    watch = ResidentWatch()
    held = torch.ones(25_000_000)
    assert 90e6 < watch.peak() < 150e6
    del held
    watch.peak()
    assert watch.stop() < 50e6, "the peak of what came before is forgotten"


# --------------------------------------------------------------------------------------------- benchmarks.gpu


def test_device_time_is_that_of_the_events_and_host_time_that_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    monkeypatch.setattr(timing.torch, "cuda", cuda)
    lengths = iter([900.0, 900.0, 3.0, 5.0, 40.0])
    measured = timing.measure(torch.device("cuda"), lambda: cuda.run(next(lengths)), repeats=3, warm=2)
    assert measured.device_seconds == pytest.approx(5e-3), "the median, without the calls that warm up"
    assert 0 < measured.host_seconds < 5e-3


def test_on_a_cpu_both_times_are_the_wall_clock() -> None:
    measured = timing.measure(torch.device("cpu"), lambda: time.sleep(0.01), repeats=3, warm=0)
    assert measured.device_seconds == measured.host_seconds >= 0.01
