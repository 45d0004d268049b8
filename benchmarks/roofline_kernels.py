"""What the kernels and their peers would take at LLaDA's sizes, from what `kernel_report` counted on a CPU.

From logits and sampling were counted at LLaDA's vocabulary: bytes grow with the live rows. From hidden states were
counted at sizes that are all the same part of LLaDA's (positions, H and V, of which V to 0.4 %): bytes grow with the
square of that factor and FLOPs with its cube. What is moved again for every tile or piece grows with the cube, and the
small sizes are one tile and one piece of dmpo's. So dmpo's bytes with a frozen head are those of its walk simulated at
LLaDA's sizes, and with a trainable one `moved_again` is added. cut-cross-entropy's tiles that are read again are left
out, which favours it.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.roofline import DEVICES, UNITS, Attainable, Device, Work, seconds
from benchmarks.roofline_count import count, fake_gpu, total
from benchmarks.roofline_model import swept
from dmpo.kernels import linear_ce_tiles

VOCAB, HIDDEN, LOGIT_BYTES = 126464, 4096, 2
ONE_PASS = 6.5  # FLOPs in H·V a masked row: three products are 6, those of logits computed again 8
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
    So are those of hidden states but for the first size, whose parts are all the same part of LLaDA's.
    """
    linear = next(title for title in tables if title.startswith("From hidden states"))
    size = linear.partition(" head, ")[2]
    factor = HIDDEN // _number(r"H (\d+)", linear)
    positions = factor * _number(r"(\d+) positions", linear)
    live = factor * round(_number(r"(\d+) positions", linear) * _number(r"(\d+) % masked", linear) / 100)
    found: dict[str, dict[str, Work]] = {}
    for title, peers in tables.items():
        counted = {name: row for name, row in peers.items() if "error" not in row}
        if title.startswith("From hidden states") and title.endswith(size):
            head = "frozen" if "frozen head" in title else "trainable"
            found[f"From hidden states, {head} head: {live} of {positions} positions masked, forward and backward"] = {
                name: Work(_linear_bytes(name, row, head, live), tensor=row["flops"] * HIDDEN * VOCAB * live)
                for name, row in counted.items()
            }
        elif title.startswith("Sampling"):
            temperature, rows = title.split(",")[1].strip(), _number(r"(\d+) rows", title)
            found[f"Sampling at {temperature}: {DRAWN} rows of logits"] = _by_row(counted, rows, DRAWN)
        elif "all masked" in title:
            rows = _number(r"(\d+) positions", title)
            found[f"From logits: {live} masked positions, forward and backward"] = _by_row(counted, rows, live)
    return found


def _linear_bytes(name: str, row: dict[str, Any], head: str, live: int) -> float:
    if name.startswith("dmpo") and head == "frozen":
        return walked(live)
    scaled = float((row["reads"] + row["writes"]) * VOCAB * HIDDEN * LOGIT_BYTES)
    return scaled + (moved_again(live, twice=row["flops"] > ONE_PASS) if name.startswith("dmpo") else 0.0)


@cache
def walked(live: int) -> float:
    """Bytes of dmpo's loss and gradient of `live` rows under a frozen head, at LLaDA's sizes: simulated."""
    with fake_gpu(FakeTensorMode()):
        rows, head = (torch.empty(size, HIDDEN, dtype=torch.bfloat16) for size in (live, VOCAB))
        targets = torch.zeros(live, dtype=torch.int64)
        return total(count(lambda: swept(rows, head, targets, gradient=True)))["bytes"]


def moved_again(live: int, *, twice: bool) -> float:
    """Bytes of a trainable head that a single tile and piece do not show (`linear_ce_trained`): bfloat16 operands,
    float32 sums.

    Each further chunk of rows reads the head for two products, and writes the head's gradient of its rows to add it to
    the whole. twice: logits are computed again, tile by tile (`recompute`), and each further tile also reads its rows
    three times and adds to their gradient.
    """
    operand, wide = LOGIT_BYTES, 4
    adding = 4 * wide  # the product written; it and the sum read, the sum written
    logit = operand + wide
    columns = linear_ce_tiles.TRITON_COLUMNS
    if not twice:
        chunks = -(-live // (linear_ce_tiles.ROW_CHUNK_BYTES["cuda"] // (VOCAB * logit)))
        return float((chunks - 1) * VOCAB * HIDDEN * (2 * operand + adding))
    pieces = -(-live // (linear_ce_tiles.SWEEP_BYTES["cuda"] // (columns * logit)))
    tiles = -(-VOCAB // columns)
    by_piece = (pieces - 1) * VOCAB * HIDDEN * (3 * operand + adding)
    return float(by_piece + (tiles - 1) * live * HIDDEN * (3 * operand + adding))


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
