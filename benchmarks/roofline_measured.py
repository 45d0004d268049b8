"""What was measured on a GPU, beside what is predicted of it.

`python -m benchmarks.gpu` leaves gpu.json in a folder of benchmarks/results/. Its ceilings (a copy, the fastest
product) and its launches (of the shortest pass) say what that device reaches; every other figure of LLaDA-8B that can
be counted stands beside the count's time, over data sheets and over those ceilings. A record's fields say what it is:
benchmarks/gpu/llada_8b.py, linear_ce.py and published.py write them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.roofline import HOST, LIKELY, TB, Attainable, Device, T, Work, device_named
from benchmarks.roofline_count import Passes, time_of
from benchmarks.roofline_kernels import HIDDEN, VOCAB, job_seconds, walked
from benchmarks.roofline_model import Simulation

Record = dict[str, Any]


@dataclass(frozen=True)
class Measurement:
    """device: of the data sheet that its driver's name means. header: of the results. parts: part -> its records."""

    device: Device
    header: dict[str, Any]
    parts: dict[str, list[Record]]

    def records(self, part: str, *keys: str) -> list[Record]:
        """Those of a part that have all of these fields. Compiled layers launch other kernels than are counted."""
        found = [record for record in self.parts.get(part, []) if all(key in record for key in keys)]
        return [record for record in found if record.get("layers", "eager") == "eager"]


def measurements(results: Path) -> list[Measurement]:
    """Of every device whose data sheet is known, the newest; by the order of data sheets' bandwidth.

    A rehearsal is no measurement, and a GPU whose peaks are not known has no prediction to stand beside.
    """
    newest: dict[str, Measurement] = {}
    for path in sorted(results.glob("*/gpu.json")):
        content = json.loads(path.read_text())
        header = content["header"]
        device = device_named(header["device"])
        if device is None or header.get("rehearse"):
            continue
        if device.name not in newest or newest[device.name].header["date"] < header["date"]:
            newest[device.name] = Measurement(device, header, content["parts"])
    return sorted(newest.values(), key=lambda each: each.device.bandwidth)


def measured_reach(seen: Measurement, counts: Simulation) -> Attainable:
    """What the device was seen to reach; where a ceiling was not measured, what is likely.

    bandwidth: of a copy. arithmetic: of the fastest product. host: of the pass whose launches took the least each; of a
    larger one the device may have held the host up.
    """
    copies = [record["tb_per_s"] * TB for record in seen.records("ceilings", "tb_per_s")]
    products = [record["tflops"] * T for record in seen.records("ceilings", "tflops")]
    launches = [
        record["host_ms"] / 1e3 / sum(times * work.launches for work, times in _forward(record, counts)[0][0].items())
        for record in seen.records("llada_8b", "attended", "adapters", "width", "layers", "host_ms")
    ]
    return Attainable(
        "measured",
        bandwidth=max(copies) / seen.device.bandwidth if copies else LIKELY.bandwidth,
        arithmetic=max(products) / seen.device.tensor if products else LIKELY.arithmetic,
        host=min(launches, default=HOST),
        overlap=False,
    )


def compared(seen: Measurement, counts: Simulation, reaches: Sequence[Attainable]) -> list[dict[str, Any]]:
    """Every measured figure that has a prediction: {name, unit, measured, predicted: reach -> figure}.

    counts: with float32 adapters, as the measured model has them. Ceilings come first, then passes, decoding steps,
    updates, losses, the published algorithm, and memory, which is predicted by `dmpo plan`, whatever the reach.
    """
    return [*_ceilings(seen, reaches), *_times(seen, counts, reaches), *_memory(seen, reaches)]


def _ceilings(seen: Measurement, reaches: Sequence[Attainable]) -> Iterator[dict[str, Any]]:
    kinds = (("tb_per_s", "TB/s", TB, "bandwidth"), ("tflops", "TFLOP/s", T, "arithmetic"))
    for key, unit, scale, share in kinds:
        peak = seen.device.bandwidth if share == "bandwidth" else seen.device.tensor
        for record in seen.records("ceilings", key):
            predicted = {reach.name: getattr(reach, share) * peak / scale for reach in reaches}
            yield {"name": record["name"], "unit": unit, "measured": record[key], "predicted": predicted}


def _times(seen: Measurement, counts: Simulation, reaches: Sequence[Attainable]) -> Iterator[dict[str, Any]]:
    makers = (
        ("llada_8b", ("adapters", "width", "attended", "layers"), _forward),
        ("llada_8b", ("decoder", "width", "attended", "live"), _step),
        ("llada_8b", ("views", "width", "live"), _update),
        ("published", ("side", "decoder", "width", "steps"), _block),
        ("published", ("side", "views", "width", "live"), _update),
    )
    for part, keys, passes_of in makers:
        for record in seen.records(part, *keys, "device_ms"):
            passes = passes_of(record, counts)
            predicted = {reach.name: 1e3 * time_of(passes, seen.device, reach) for reach in reaches}
            yield {"name": record["name"], "unit": "ms", "measured": record["device_ms"], "predicted": predicted}
    for record in seen.records("linear_ce", "package", "head", "rows", "device_ms"):
        if record["package"] == "dmpo":
            work = _loss(record)
            predicted = {reach.name: 1e3 * job_seconds("dmpo", work, seen.device, reach) for reach in reaches}
            yield {"name": record["name"], "unit": "ms", "measured": record["device_ms"], "predicted": predicted}


def _memory(seen: Measurement, reaches: Sequence[Attainable]) -> Iterator[dict[str, Any]]:
    for record in seen.records("llada_8b", "peak_gb", "planned_gb"):
        if record["peak_gb"] is not None:
            predicted = {reach.name: record["planned_gb"] for reach in reaches}
            yield {"name": record["name"], "unit": "GB", "measured": record["peak_gb"], "predicted": predicted}


# ---------------------------------------------------------------------------------------------- what a record measured


def _forward(record: Record, counts: Simulation) -> Passes:
    """A pass over `width` tokens of each of `rows`, among `attended` whose keys are kept (0: none are)."""
    rows, width, attended = record["rows"], record["width"], record["attended"]
    return [(counts.forward(rows, width, attended, adapters=record["adapters"] == "lora"), 1)]


def _step(record: Record, counts: Simulation) -> Passes:
    """A decoding step: its pass, and the draw of `live` tokens in all."""
    tail = counts.tail("ours", "rollout", record["rows"], record["width"], record["live"])
    return [*_forward(record, counts), (tail, 1)]


def _update(record: Record, counts: Simulation) -> Passes:
    """Forward and backward of `views`, of which `live` tokens are masked."""
    views, width = record["views"], record["width"]
    tail = counts.tail(record.get("side", "ours"), "update", views, width, record["live"])
    return [(counts.training(views, width), 1), (tail, 1)]


def _block(record: Record, counts: Simulation) -> Passes:
    """All `steps` of one block of `block` tokens, the first on the canvas of `width`, with kept keys the others on the
    block alone."""
    rows, width, block, steps = (record[key] for key in ("rows", "width", "block", "steps"))
    passes: Passes = []
    for step in range(steps):
        cached = record["decoder"] == "dual_cache" and step > 0
        seen, live = (block if cached else width), rows * (block - step * (block // steps))
        passes.append((counts.forward(rows, seen, width if cached else 0), 1))
        passes.append((counts.tail(record["side"], "rollout", rows, seen, live), 1))
    return passes


def _loss(record: Record) -> Work:
    """Linear cross-entropy of `rows` masked rows, forward and backward."""
    trainable = record["head"] == "trainable"
    products = 6 if trainable else 4
    moved = walked(record["rows"], trainable=trainable, weighted=True)
    return Work(moved, tensor=products * HIDDEN * VOCAB * record["rows"])
