"""The time of the kernels and their peers at LLaDA's sizes, from the counts of counted/report.py on a CPU.

The jobs from logits and the draws were counted at LLaDA's vocabulary: their bytes grow with the live rows. The jobs
from hidden states were counted at sizes that are all the same fraction of LLaDA's (positions, H and V; V to 0.4 %):
their bytes grow with the square of that factor and their FLOPs with its cube. Bytes that move again for every tile or
row chunk grow with the cube, too, but the small sizes are one tile and one row chunk of dmpo. So dmpo's bytes are
simulated at LLaDA's sizes. The tiles that cut-cross-entropy reads again are left out, which favours it.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.harness.data_sheets import DEVICES, Device
from benchmarks.predict.op_counts import count, fake_gpu, total
from benchmarks.predict.roofline import UNITS, Attainable, Work, seconds
from dmpo.kernels.linear_ce.frozen_head import vocabulary_pass
from dmpo.kernels.linear_ce.trainable_head import Gradients, recompute, row_chunks

VOCAB, HIDDEN, LOGIT_BYTES = 126464, 4096, 2
DRAWN = 16 * 32  # rows of a draw: a batch of 16 at the first step of a block of 32
FUSED = ("cut-cross-entropy",)  # one kernel computes products and moves bytes; in the others the two take turns


def _number(pattern: str, title: str) -> int:
    found = re.search(pattern, title)
    if found is None:
        raise ValueError(f"kernel_report: a table's title says no {pattern!r}: {title!r}")
    return int(found[1])


def works(tables: dict[str, Any]) -> dict[str, dict[str, Work]]:
    """The work of every peer that was counted, at LLaDA's sizes: title -> peer -> work.

    Tables of logits with unmasked positions are left out: the table with all positions masked says the same.
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
    if name.startswith("dmpo"):
        return walked(live, trainable=head == "trainable", weighted="weighted" in name)
    return float((row["reads"] + row["writes"]) * VOCAB * HIDDEN * LOGIT_BYTES)


@cache
def walked(live: int, *, trainable: bool, weighted: bool) -> float:
    """Bytes of dmpo's loss and gradients of `live` rows at LLaDA's sizes, simulated."""
    with fake_gpu(FakeTensorMode()):
        rows, head = (torch.empty(size, HIDDEN, dtype=torch.bfloat16) for size in (live, VOCAB))
        return total(count(lambda: walk(rows, head, trainable=trainable, weighted=weighted)))["bytes"]


def walk(rows: Tensor, head: Tensor, *, trainable: bool, weighted: bool) -> None:
    """The kernels that move rows [R, H], the head and logits in `linear_weighted_ce` or `linear_token_logprobs`,
    forward and backward, if all rows are live. A test compares them with those ops."""
    targets, c = (rows.new_zeros(len(rows), dtype=dtype) for dtype in (torch.int64, torch.float32))
    into = torch.zeros_like(rows) if weighted or trainable else None
    if into is not None:
        rows = rows[targets]
    needs = (True, trainable, False)
    if not trainable:
        row_scale = c if weighted else None
        slope = vocabulary_pass(rows, head, None, targets, gradient=True, limit=None, row_scale=row_scale).grad_hidden
        found = Gradients(slope, None, None)
    elif weighted:
        found = row_chunks(rows, head, None, targets, c, needs, None)[1]
    else:
        seen = vocabulary_pass(rows, head, None, targets, gradient=False, limit=None)
        found = recompute(rows, head, None, targets, (seen.row_max, seen.log_sum), c, needs, None)
    made = []
    for gradient in (found.hidden, found.weight):
        if weighted and gradient is not None:
            made.append(torch.mul(gradient, c[0], out=torch.empty_like(gradient, dtype=rows.dtype)))
        elif gradient is not None and gradient.dtype != rows.dtype:
            made.append((gradient if trainable else gradient * c[:, None]).to(rows.dtype))
    if into is None:
        made[0].masked_fill_(c[:, None] == 0, 0.0)
    else:
        into.index_copy_(0, targets, made[0])


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
