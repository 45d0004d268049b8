"""How long do the kernels take at LLaDA's shapes, next to their peers, and how close is that to what the device can do?

    python -m benchmarks.bench_kernels --device cuda     # the sweep: CUDA events, cold L2, a few minutes
    python -m benchmarks.bench_kernels --device cpu      # the plain PyTorch path, a minute

Writes benchmarks/results/kernels_<device>.{json,md,png}. The roofline is measured on the device itself, a large copy
for bytes a second and a large matrix product for FLOPs a second; the floor of a job is each live logit read once and
each gradient written once, or the FLOPs it cannot do without. Share is the floor's time over the job's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers import LINEAR, LOGITS, SAMPLING, Peer, easier, load, make_loss_inputs

RESULTS = Path(__file__).resolve().parent / "results"
VOCAB = 126464
MASKED = 0.28  # share of positions a training view masks, prompt included


@dataclass(frozen=True)
class Timing:
    """One job of one peer: milliseconds (median), or why it was not measured."""

    job: str
    peer: str
    rows: int
    milliseconds: float | None
    floor_bytes: float
    floor_flops: float
    share: float | None = None
    peak_bytes: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Sweep:
    """Sizes for one kind of device. rows: positions, masked or not (losses); drawn: rows sampled."""

    dtype: torch.dtype
    length: int
    hidden: int
    logit_rows: tuple[int, ...]
    linear_rows: tuple[int, ...]
    drawn: tuple[int, ...]


SWEEPS = {
    "cuda": Sweep(torch.bfloat16, 256, 4096, (1024, 2048, 4096, 8192), (2048, 4096, 8192, 16384), (32, 128, 512, 2048)),
    "cpu": Sweep(torch.float32, 32, 128, (64, 128), (512, 1024), (8, 32, 128)),
}


def clock(job: Callable[[], Any], device: str) -> float:
    """Median milliseconds. On a GPU by CUDA events with the L2 cache flushed before each run."""
    job()
    if device == "cuda":
        from triton.testing import do_bench

        return float(do_bench(job, warmup=50, rep=300, return_mode="median"))
    times: list[float] = []
    begun = time.perf_counter()
    while not times or (time.perf_counter() - begun < 1.5 and len(times) < 50):
        start = time.perf_counter()
        job()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def roofline(device: str, dtype: torch.dtype) -> tuple[float, float]:
    """(bytes a second of a copy, FLOPs a second of a matrix product) as measured here."""
    size = 1 << (30 if device == "cuda" else 27)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    sink = torch.empty_like(source)
    per_second = 2 * size / clock(lambda: sink.copy_(source), device) * 1e3
    n = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return per_second, 2 * n**3 / clock(lambda: a @ b, device) * 1e3


def loss_jobs(sweep: Sweep, device: str) -> Iterator[tuple[str, Peer, int, Callable[[], Any], float, float]]:
    """(job, peer, rows, build, floor bytes, floor FLOPs); `build` makes the inputs and returns what is timed."""
    item = torch.tensor([], dtype=sweep.dtype).itemsize
    for rows in sweep.logit_rows:
        live = round(MASKED * sweep.length) * rows // sweep.length
        moved = (2 * live + (rows - live)) * VOCAB * item  # dead rows: their zeros
        for peer in LOGITS:
            yield "loss from logits", peer, rows, _builder(peer, sweep, device, rows, None, False), moved, 0.0
    for trainable in (False, True):
        name = f"loss from hidden states, {'trainable' if trainable else 'frozen'} head"
        for rows in sweep.linear_rows:
            live = round(MASKED * sweep.length) * rows // sweep.length
            flops = (6.0 if trainable else 4.0) * live * VOCAB * sweep.hidden
            for peer in LINEAR:
                yield name, peer, rows, _builder(peer, sweep, device, rows, sweep.hidden, trainable), 0.0, flops
    for temperature in (0.0, 0.2, 1.0):
        for rows in sweep.drawn:
            for peer in SAMPLING:
                build = _sample_builder(peer, sweep, device, rows, temperature)
                yield f"sampling, T = {temperature:g}", peer, rows, build, rows * VOCAB * item, 0.0


def _builder(
    peer: Peer, sweep: Sweep, device: str, rows: int, hidden: int | None, trainable: bool
) -> Callable[[], Any]:
    def build() -> Callable[[], Any]:
        return peer.build(
            make_loss_inputs(
                max(1, rows // sweep.length),
                min(rows, sweep.length),
                VOCAB,
                sweep.dtype,
                device,
                masked=MASKED,
                hidden=hidden,
                trainable_head=trainable,
            )
        )

    return build


def _sample_builder(peer: Peer, sweep: Sweep, device: str, rows: int, temperature: float) -> Callable[[], Any]:
    def build() -> Callable[[], Any]:
        generator = torch.Generator(device).manual_seed(0)
        logits = torch.randn(rows, VOCAB, generator=generator, device=device).mul_(3).to(sweep.dtype)
        return peer.build(logits, temperature)

    return build


def load_average() -> float:
    """Processes that ran or waited to, on average over the last minute."""
    return os.getloadavg()[0]


def run(device: str) -> tuple[list[Timing], tuple[float, float], list[float]]:
    """Every timing, the measured limits, and the load averages seen before each timing."""
    sweep = SWEEPS[device]
    loads = [load_average()]
    limits = roofline(device, sweep.dtype)
    installed = {peer.name for peers in (LOGITS, LINEAR, SAMPLING) for peer in load(peers)[0]}
    found = []
    for job, peer, rows, build, floor_bytes, floor_flops in loss_jobs(sweep, device):
        timing = Timing(job, peer.name, rows, None, floor_bytes, floor_flops)
        loads.append(load_average())
        reason = "" if peer.name in installed else f"{peer.package} is not installed"
        if device == "cpu" and peer.package is not None:
            reason = f"{peer.package} runs on a GPU only"
        if not reason:
            try:
                milliseconds, peak = _time(build, device)
                share = max(floor_bytes / limits[0], floor_flops / limits[1]) * 1e3 / milliseconds
                timing = Timing(job, peer.name, rows, milliseconds, floor_bytes, floor_flops, share, peak)
            except Exception as error:  # a peer that cannot run this is reported, not fatal
                reason = f"{type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}"
        if reason:
            timing = Timing(**(asdict(timing) | {"reason": reason}))
        found.append(timing)
        shown = f"{timing.milliseconds:.2f} ms" if timing.milliseconds is not None else f"not measured: {reason}"
        print(f"{job}, {rows} rows, {peer.name}: {shown}", flush=True)
    return found, limits, loads


def _time(build: Callable[[], Any], device: str) -> tuple[float, int | None]:
    if device == "cpu":
        return clock(build(), device), None
    torch.cuda.empty_cache()
    job = build()
    base = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    job()
    peak = torch.cuda.max_memory_allocated() - base
    return clock(job, device), peak


def markdown(
    timings: list[Timing], limits: tuple[float, float], loads: list[float], versions: dict[str, str], device: str
) -> str:
    head = ", ".join(f"{name} {found}" for name, found in versions.items())
    parts = [f"# Kernels, timed on {device}", head]
    parts.append(f"Measured limits: copy {limits[0] / 1e9:.1f} GB/s, matrix product {limits[1] / 1e12:.2f} TFLOP/s.")
    if device.startswith("CPU"):
        cores = os.cpu_count() or 1
        parts.append("GPU: not measured. Rows of the losses are positions, 28 % of them masked.")
        line = f"Load average (1 minute) while measuring: {min(loads):.1f} to {max(loads):.1f} on {cores} cores."
        if max(loads) > cores + 0.5:
            line += (
                " Other work ran beside this: single figures may be off by several times, so no timing here is better"
                " than an order of magnitude. Run again on an idle machine."
            )
        parts.append(line)
    parts.append(easier(LOGITS + LINEAR))
    for job in dict.fromkeys(t.job for t in timings):
        lines = [f"## {job}, V {VOCAB}", "", "| | rows | ms | GB/s or TFLOP/s of the floor | share of roofline |"]
        lines.append("|---|---|---|---|---|")
        for t in (t for t in timings if t.job == job):
            if t.milliseconds is None or t.share is None:
                lines.append(f"| {t.peer} | {t.rows} | not measured | {t.reason} | |")
                continue
            rate = (
                f"{t.floor_flops / t.milliseconds / 1e9:.3g} TFLOP/s"
                if t.floor_flops
                else f"{t.floor_bytes / t.milliseconds / 1e6:.3g} GB/s"
            )
            lines.append(f"| {t.peer} | {t.rows} | {t.milliseconds:.2f} | {rate} | {t.share:.0%} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def plot(timings: list[Timing], path: Path, device: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    jobs = list(dict.fromkeys(t.job for t in timings))
    figure, axes = plt.subplots(2, 3, figsize=(16, 9), constrained_layout=True)
    for axis, job in zip(axes.flat, jobs, strict=False):
        here = [t for t in timings if t.job == job and t.milliseconds is not None]
        for peer in dict.fromkeys(t.peer for t in here):
            points = [(t.rows, t.milliseconds) for t in here if t.peer == peer]
            style = {"linewidth": 2.5} if peer.startswith("dmpo") else {"linewidth": 1.2, "linestyle": "--"}
            axis.loglog(*zip(*points, strict=True), marker="o", label=peer, **style)
        axis.set(title=job, xlabel="rows", ylabel="milliseconds")
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=7)
    figure.suptitle(f"V {VOCAB}, {device}")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=sorted(SWEEPS), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (--device cpu)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the three files")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("not measured: no CUDA device is visible")
    torch.set_num_threads(arguments.threads)
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else f"CPU, {arguments.threads} threads"
    versions = load(LOGITS + LINEAR)[1] | {"python": platform.python_version()}

    timings, limits, loads = run(arguments.device)
    text = markdown(timings, limits, loads, versions, device)
    print(text)
    stem = "kernels_" + (re.sub(r"\W+", "_", device).lower() if arguments.device == "cuda" else "cpu")
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / f"{stem}.md").write_text(text)
    whole = {"device": device, "versions": versions, "copy_bytes_per_second": limits[0]}
    whole |= {"load_average": [min(loads), max(loads)], "cores": os.cpu_count()}
    whole |= {"matmul_flops_per_second": limits[1], "timings": [asdict(t) for t in timings]}
    (arguments.output / f"{stem}.json").write_text(json.dumps(whole, indent=1) + "\n")
    plot(timings, arguments.output / f"{stem}.png", device)


if __name__ == "__main__":
    main()
