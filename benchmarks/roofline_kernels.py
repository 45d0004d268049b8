"""What the kernels and their peers would take at LLaDA's sizes, from what `kernel_report` counted on a CPU.

From logits and sampling were counted at LLaDA's vocabulary: bytes grow with the live rows. From hidden states were
counted at sizes that are all the same part of LLaDA's (positions, H and V, of which V to 0.4 %): bytes grow with the
square of that factor and FLOPs with its cube. A tile that is read again for other tiles grows with the cube, too, which
counts for little in what is bound by arithmetic, and only cut-cross-entropy has such.
"""

from __future__ import annotations

import re
from typing import Any

from benchmarks.roofline import DEVICES, UNITS, Attainable, Device, Work, seconds

VOCAB, HIDDEN, LOGIT_BYTES = 126464, 4096, 2
DRAWN = 16 * 32  # rows of a draw: a batch of 16 at the first step of a block of 32
FUSED = ("cut-cross-entropy",)  # one kernel makes products and moves bytes; those of the others take turns


def _number(pattern: str, title: str) -> int:
    found = re.search(pattern, title)
    if found is None:
        raise ValueError(f"kernel_report: a table's title says no {pattern!r}: {title!r}")
    return int(found[1])


def works(tables: dict[str, Any]) -> dict[str, dict[str, Work]]:
    """The work of every peer that was counted, at LLaDA's sizes: title -> peer -> work.

    Tables of logits in which unmasked positions lie among masked ones are left out: that of all masked says the same.
    """
    linear = next(title for title in tables if title.startswith("From hidden states"))
    factor = HIDDEN // _number(r"H (\d+)", linear)
    positions = factor * _number(r"(\d+) positions", linear)
    live = factor * round(_number(r"(\d+) positions", linear) * _number(r"(\d+) % masked", linear) / 100)
    found: dict[str, dict[str, Work]] = {}
    for title, peers in tables.items():
        counted = {name: row for name, row in peers.items() if "error" not in row}
        if title.startswith("From hidden states"):
            head = "frozen" if "frozen head" in title else "trainable"
            found[f"From hidden states, {head} head: {live} of {positions} positions masked, forward and backward"] = {
                name: Work(
                    (row["reads"] + row["writes"]) * VOCAB * HIDDEN * LOGIT_BYTES,
                    tensor=row["flops"] * HIDDEN * VOCAB * live,
                )
                for name, row in counted.items()
            }
        elif title.startswith("Sampling"):
            temperature, rows = title.split(",")[1].strip(), _number(r"(\d+) rows", title)
            found[f"Sampling at {temperature}: {DRAWN} rows of logits"] = _by_row(counted, rows, DRAWN)
        elif "all masked" in title:
            rows = _number(r"(\d+) positions", title)
            found[f"From logits: {live} masked positions, forward and backward"] = _by_row(counted, rows, live)
    return found


def _by_row(peers: dict[str, Any], counted: int, rows: int) -> dict[str, Work]:
    return {name: Work((x["bytes_read"] + x["bytes_written"]) / counted * rows) for name, x in peers.items()}


def job_seconds(name: str, work: Work, device: Device, reach: Attainable) -> float:
    """Seconds; products and moves take turns unless one kernel does both, but the roofline itself overlaps them."""
    if reach.overlap or name.startswith(FUSED):
        return seconds(work, device, reach)
    products = Work(**{unit: getattr(work, unit) for unit in UNITS})
    return seconds(products, device, reach) + seconds(Work(work.bytes), device, reach)


def predicted(meter: dict[str, Any], reaches: tuple[Attainable, ...]) -> dict[str, Any]:
    """Milliseconds by reach and device of every peer: title -> peer -> {bytes, flops, ms}. Launches are left out: their
    number depends on sizes."""
    return {
        title: {
            name: {
                "bytes": work.bytes,
                "flops": work.tensor,
                "ms": {r.name: {d.name: 1000 * job_seconds(name, work, d, r) for d in DEVICES} for r in reaches},
            }
            for name, work in peers.items()
        }
        for title, peers in works(meter).items()
    }
