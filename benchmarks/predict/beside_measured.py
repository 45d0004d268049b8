"""The measurements on a GPU beside the predictions for it.

The ceilings of a GPU's results (a copy, the fastest product) and its launches (of the shortest pass) say what that
device reaches; every other figure of LLaDA-8B that can be counted stands beside the count's time, over data sheets and
over those ceilings. A record's fields say what it is: benchmarks/gpu/llada_8b.py, linear_ce.py and published.py write
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.gpu.measurements import Measurement, Record
from benchmarks.harness.data_sheets import TB, Device, T
from benchmarks.predict.kernels import HIDDEN, VOCAB, job_seconds, walked
from benchmarks.predict.llada_passes import Simulation
from benchmarks.predict.op_counts import Passes, time_of
from benchmarks.predict.roofline import HOST, LIKELY, Attainable, Work


def measured_reach(seen: Measurement, device: Device, counts: Simulation) -> Attainable:
    """What the device, of this data sheet, was seen to reach; where a ceiling was not measured, what is likely.

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
        bandwidth=max(copies) / device.bandwidth if copies else LIKELY.bandwidth,
        arithmetic=max(products) / device.tensor if products else LIKELY.arithmetic,
        host=min(launches, default=HOST),
        overlap=False,
    )


def compared(
    seen: Measurement, device: Device, counts: Simulation, reaches: Sequence[Attainable]
) -> list[dict[str, Any]]:
    """Every measured figure that has a prediction: {name, unit, measured, predicted: reach -> figure}.

    counts: with float32 adapters, as the measured model has them. Ceilings come first, then passes, decoding steps,
    updates, losses, the published algorithm, and memory, which is predicted by `dmpo plan`, whatever the reach.
    """
    return [*_ceilings(seen, device, reaches), *_times(seen, device, counts, reaches), *_memory(seen, reaches)]


def _ceilings(seen: Measurement, device: Device, reaches: Sequence[Attainable]) -> Iterator[dict[str, Any]]:
    kinds = (("tb_per_s", "TB/s", TB, "bandwidth"), ("tflops", "TFLOP/s", T, "arithmetic"))
    for key, unit, scale, share in kinds:
        peak = device.bandwidth if share == "bandwidth" else device.tensor
        for record in seen.records("ceilings", key):
            predicted = {reach.name: getattr(reach, share) * peak / scale for reach in reaches}
            yield {"name": record["name"], "unit": unit, "measured": record[key], "predicted": predicted}


def _times(
    seen: Measurement, device: Device, counts: Simulation, reaches: Sequence[Attainable]
) -> Iterator[dict[str, Any]]:
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
            predicted = {reach.name: 1e3 * time_of(passes, device, reach) for reach in reaches}
            yield {"name": record["name"], "unit": "ms", "measured": record["device_ms"], "predicted": predicted}
    for record in seen.records("linear_ce", "package", "head", "rows", "device_ms"):
        if record["package"] == "dmpo":
            work = _loss(record)
            predicted = {reach.name: 1e3 * job_seconds("dmpo", work, device, reach) for reach in reaches}
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
