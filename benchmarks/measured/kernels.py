"""How long do the kernels take at LLaDA's shapes, next to their peers, and how close is that to the device's limits?

    python -m benchmarks --only kernels [--device cuda]

Limits are measured on the device itself, a large copy for bytes a second and a large matrix product for FLOPs a second.
The limits of a data sheet (harness/data_sheets.py) stand beside them where the GPU has one. The floor of a job is each
live logit read once and each gradient written once, or the FLOPs that it needs at least. The share of a job is the time
of its floor over the time of the job. The answer is the first line of the Markdown that `markdown` makes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import cuda

from benchmarks.baselines.kernels import LINEAR, LOGITS, SAMPLING, Peer, easier, load, make_loss_inputs
from benchmarks.harness.chart import figure
from benchmarks.harness.clock import Gauge, Job, gauge
from benchmarks.harness.data_sheets import device_named
from benchmarks.harness.markdown import table
from benchmarks.harness.setting import Setting, about

MASKED = 0.28  # share of positions a training view masks, prompt included


@dataclass(frozen=True)
class Sweep:
    """Sizes. logit_rows, linear_rows: positions, masked or not, of the losses; drawn: rows sampled; copied: bytes, and
    square: rows and columns, of what measures the limits; budget: seconds for each figure."""

    dtype: torch.dtype
    vocab: int
    length: int
    hidden: int
    logit_rows: tuple[int, ...]
    linear_rows: tuple[int, ...]
    drawn: tuple[int, ...]
    copied: int
    square: int
    budget: float


SWEEPS = {
    "cuda": Sweep(
        dtype=torch.bfloat16,
        vocab=126464,
        length=256,
        hidden=4096,
        logit_rows=(1024, 2048, 4096, 8192),
        linear_rows=(2048, 4096, 8192, 16384),
        drawn=(32, 128, 512, 2048),
        copied=1 << 30,
        square=8192,
        budget=0.5,
    ),
    "cpu": Sweep(torch.float32, 126464, 32, 128, (64, 128), (512, 1024), (8, 32, 128), 1 << 27, 2048, 0.5),
    "quick": Sweep(torch.float32, 300, 8, 16, (8, 16), (16,), (2,), 1 << 12, 16, 0.0),
}


@dataclass(frozen=True)
class Timing:
    """One job of one peer, or why it was not measured. seconds: the median. shares: of the measured limits, and of the
    data sheet's."""

    job: str
    peer: str
    rows: int
    floor_bytes: float
    floor_flops: float
    seconds: float | None = None
    share: float | None = None
    share_of_data_sheet: float | None = None
    peak_bytes: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Limits:
    """Bytes and FLOPs a second."""

    bandwidth: float
    arithmetic: float

    def share(self, timing: Timing, seconds: float) -> float:
        """The time of the floor over the time of the job."""
        return max(timing.floor_bytes / self.bandwidth, timing.floor_flops / self.arithmetic) / seconds


def measured_limits(sweep: Sweep, setting: Setting, clock: Gauge) -> Limits:
    """Bytes a second of a copy and FLOPs a second of a matrix product, here."""
    source = torch.zeros(sweep.copied, dtype=torch.uint8, device=setting.place)
    sink = torch.empty_like(source)
    copy = statistics.median(clock.times(lambda: sink.copy_(source), budget=sweep.budget))
    n = sweep.square
    a, b = (torch.randn(n, n, device=setting.place).to(sweep.dtype) for _ in range(2))
    product = statistics.median(clock.times(lambda: a @ b, budget=sweep.budget))
    return Limits(2 * sweep.copied / copy, 2 * n**3 / product)


def data_sheet(setting: Setting) -> Limits | None:
    """The limits in the GPU's data sheet; None for a CPU and for a GPU that is not in the table."""
    device = device_named(cuda.get_device_name()) if setting.device == "cuda" else None
    return None if device is None else Limits(device.bandwidth, device.tensor)


def jobs(sweep: Sweep, place: torch.device) -> Iterator[tuple[Timing, Peer, Callable[[], Job]]]:
    """What to time, not yet timed; the peer; and what makes its inputs and returns the job."""
    item = torch.tensor([], dtype=sweep.dtype).itemsize

    def live(rows: int) -> int:
        return max(1, round(MASKED * min(rows, sweep.length))) * max(1, rows // sweep.length)

    def of_loss(peer: Peer, rows: int, hidden: int | None, trainable: bool = False) -> Callable[[], Job]:
        shape = (max(1, rows // sweep.length), min(rows, sweep.length), sweep.vocab, sweep.dtype, str(place))
        return lambda: peer.build(make_loss_inputs(*shape, masked=MASKED, hidden=hidden, trainable_head=trainable))

    def of_draw(peer: Peer, rows: int, temperature: float) -> Callable[[], Job]:
        def build() -> Job:
            generator = torch.Generator(place).manual_seed(0)
            logits = torch.randn(rows, sweep.vocab, generator=generator, device=place).mul_(3).to(sweep.dtype)
            return peer.build(logits, temperature)

        return build

    for rows in sweep.logit_rows:
        moved = (2 * live(rows) + (rows - live(rows))) * sweep.vocab * item  # dead rows: their zeros
        for peer in LOGITS:
            yield Timing("loss from logits", peer.name, rows, moved, 0.0), peer, of_loss(peer, rows, None)
    for trainable in (False, True):
        name = f"loss from hidden states, {'trainable' if trainable else 'frozen'} head"
        for rows in sweep.linear_rows:
            flops = (6.0 if trainable else 4.0) * live(rows) * sweep.vocab * sweep.hidden
            for peer in LINEAR:
                build = of_loss(peer, rows, sweep.hidden, trainable)
                yield Timing(name, peer.name, rows, 0.0, flops), peer, build
    for temperature in (0.0, 0.2, 1.0):
        name = f"sampling, T = {temperature:g}"
        for rows in sweep.drawn:
            for peer in SAMPLING:
                timing = Timing(name, peer.name, rows, rows * sweep.vocab * item, 0.0)
                yield timing, peer, of_draw(peer, rows, temperature)


def measure(setting: Setting) -> dict[str, Any]:
    """Every timing, and the limits of the device."""
    sweep, clock = SWEEPS[setting.size], gauge(setting)
    limits, sheet = measured_limits(sweep, setting, clock), data_sheet(setting)
    installed = {peer.name for peers in (LOGITS, LINEAR, SAMPLING) for peer in load(peers)[0]}
    found = []
    for timing, peer, build in jobs(sweep, setting.place):
        reason = "" if peer.name in installed else f"{peer.package} is not installed"
        if setting.device == "cpu" and peer.package is not None:
            reason = f"{peer.package} runs on a GPU only"
        if not reason:
            try:
                found.append(_timed(timing, build(), clock, sweep.budget, limits, sheet))
            except Exception as error:  # a peer that cannot run this is reported, not fatal
                if peer.name.startswith("dmpo"):
                    raise
                reason = f"{type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}"
        if reason:
            found.append(Timing(**(asdict(timing) | {"reason": reason})))
    return {
        "vocab": sweep.vocab,
        "hidden": sweep.hidden,
        "dtype": str(sweep.dtype).removeprefix("torch."),
        "masked": MASKED,
        "limits": asdict(limits),
        "data_sheet": None if sheet is None else asdict(sheet),
        "timings": [asdict(timing) for timing in found],
    }


def _timed(timing: Timing, job: Job, clock: Gauge, budget: float, limits: Limits, sheet: Limits | None) -> Timing:
    seconds = statistics.median(clock.times(job, budget=budget))
    shares = {"share": limits.share(timing, seconds)}
    if sheet is not None:
        shares["share_of_data_sheet"] = sheet.share(timing, seconds)
    return Timing(**(asdict(timing) | shares | {"seconds": seconds, "peak_bytes": clock.peak(job)}))


def answer(results: dict[str, Any]) -> str:
    """How often ours is the fastest one with the same problem, weighted or not, and its least and largest share of the
    roofline. A job and size at which ours alone, or ours not, was timed is no comparison."""
    weighted = {peer.name: peer.weighted for peer in (*LOGITS, *LINEAR, *SAMPLING)}
    timed = [t for t in results["timings"] if t["seconds"] is not None]
    cells: dict[tuple[str, int, bool], dict[str, float]] = {}
    for t in timed:
        cells.setdefault((t["job"], t["rows"], weighted[t["peer"]]), {})[t["peer"]] = t["seconds"]
    compared = [cell for cell in cells.values() if len({peer.startswith("dmpo") for peer in cell}) == 2]
    best = sum(min(cell, key=lambda peer: cell[peer]).startswith("dmpo") for cell in compared)
    shares = [t["share"] for t in timed if t["peer"].startswith("dmpo")]
    return (
        f"Of {len(compared)} jobs and sizes that a peer of the same problem was timed at, dmpo is the fastest in "
        f"{best}; its kernels do {min(shares):.0%} to {max(shares):.0%} of what the device was measured to be able to."
    )


def markdown(results: dict[str, Any]) -> str:
    limits, sheet = results["limits"], results["data_sheet"]
    on_cpu = results["header"]["kind"] == "cpu"
    parts = [f"# Kernels, timed on {results['header']['device']}", answer(results), about(results)]
    text = f"Measured limits: copy {limits['bandwidth'] / 1e9:.1f} GB/s, matrix product in {results['dtype']} "
    text += f"{limits['arithmetic'] / 1e12:.2f} TFLOP/s."
    if sheet:
        text += f" Data sheet: {sheet['bandwidth'] / 1e9:.0f} GB/s, {sheet['arithmetic'] / 1e12:.0f} TFLOP/s."
    elif not on_cpu:
        text += " This GPU's data sheet is not in benchmarks/harness/data_sheets.py."
    parts.append(f"{text} Rows of the losses are positions, {results['masked']:.0%} of them masked.")
    if on_cpu:
        parts.append("This is the plain PyTorch path of dmpo; the Triton kernels run on a GPU, not measured here.")
    parts.append(easier(LOGITS + LINEAR))
    head = ["", "rows", "ms", "floor's GB/s or TFLOP/s", "share of measured limit", "share of data sheet", "peak MB"]
    for job in dict.fromkeys(t["job"] for t in results["timings"]):
        parts.append(f"## {job}, V {results['vocab']}")
        parts.append(table(head, [_row(t) for t in results["timings"] if t["job"] == job]))
    return "\n\n".join(parts) + "\n"


def _row(t: dict[str, Any]) -> list[str]:
    if t["seconds"] is None:
        return [t["peer"], str(t["rows"]), "not measured", t["reason"], "", "", ""]
    gigabytes, teraflops = t["floor_bytes"] / t["seconds"] / 1e9, t["floor_flops"] / t["seconds"] / 1e12
    rate = f"{teraflops:.3g} TFLOP/s" if t["floor_flops"] else f"{gigabytes:.3g} GB/s"
    sheet = "–" if t["share_of_data_sheet"] is None else f"{t['share_of_data_sheet']:.0%}"
    figures = [f"{t['seconds'] * 1e3:.2f}", rate, f"{t['share']:.0%}", sheet, f"{t['peak_bytes'] / 1e6:.1f}"]
    return [t["peer"], str(t["rows"]), *figures]


def plot(results: dict[str, Any], path: Path) -> None:
    with figure(path, 2, 3, size=(16, 9), title=f"V {results['vocab']}, {results['header']['device']}") as axes:
        for axis, job in zip(axes, dict.fromkeys(t["job"] for t in results["timings"]), strict=False):
            here = [t for t in results["timings"] if t["job"] == job and t["seconds"] is not None]
            for peer in dict.fromkeys(t["peer"] for t in here):
                points = [(t["rows"], t["seconds"] * 1e3) for t in here if t["peer"] == peer]
                ours = {"linewidth": 2.5} if peer.startswith("dmpo") else {"linestyle": "--"}
                axis.loglog(*zip(*points, strict=True), marker="o", label=peer, **ours)
            axis.set(title=job, xlabel="rows", ylabel="milliseconds")
            axis.minorticks_off()
            axis.set_xticks(sorted({t["rows"] for t in here}))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.legend(fontsize=7)
