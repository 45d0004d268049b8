"""How do the gains grow with the vocabulary, the batch, the length and the number of views?

    python -m benchmarks --only scaling [--device cuda]

Three jobs, each against the published way, around one small shape of which one size changes at a time: the loss from
hidden states (forward and backward, frozen head), a training step of a 2-layer transformer, and one decoding step (one
forward, and the draw of a block of 32 at T = 0.2, which has no views). Time is the median of a few repetitions. Memory
is the most that PyTorch allocates at once above inputs and weights. The loss and the training step take batch × views
rows, so their axes "batch" and "views" are one experiment, timed once for each number of rows. The Markdown starts with
the answer.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.baselines.decoders import published_generate
from benchmarks.baselines.kernels import LINEAR, make_loss_inputs
from benchmarks.baselines.training_step import Backbone
from benchmarks.harness.chart import figure
from benchmarks.harness.clock import Gauge, Job, gauge
from benchmarks.harness.markdown import table
from benchmarks.harness.setting import Setting, about
from benchmarks.measured.training_step import VARIANTS
from dmpo import generate
from dmpo.models import new_model

MASKED = 0.28  # share of positions that a view masks, prompt included
BLOCK = 32
PEERS = {"ours": "dmpo linear_weighted_ce", "published": "torch logits of all positions"}
AXES = ("vocab", "batch", "length", "views")
HEAD = ("", "ours ms", "published ms", "times faster", "ours MB", "published MB")


@dataclass(frozen=True)
class Shape:
    """batch: completions (rows, in decoding), views of each, positions of each, prompt included; vocabulary."""

    vocab: int
    batch: int
    length: int
    views: int


@dataclass(frozen=True)
class Grid:
    """base: what stays; along: the values of each axis; repetitions: at least, at most, and seconds for each figure."""

    base: Shape
    along: dict[str, tuple[int, ...]]
    hidden: int
    heads: int
    dtype: torch.dtype
    repetitions: dict[str, Any]


GRIDS = {
    "cpu": Grid(
        base=Shape(vocab=32768, batch=2, length=64, views=2),
        along={"vocab": (8192, 16384, 32768, 65536, 126464), "batch": (1, 2, 4, 8), "length": (64, 128, 256)}
        | {"views": (1, 2, 4, 8)},
        hidden=64,
        heads=4,
        dtype=torch.float32,
        repetitions={"least": 2, "most": 20, "budget": 0.3},
    ),
    "cuda": Grid(
        base=Shape(vocab=126464, batch=4, length=256, views=2),
        along={"vocab": (16384, 32768, 65536, 126464), "batch": (1, 2, 4, 8, 16), "length": (128, 256, 512, 1024)}
        | {"views": (1, 2, 4, 8)},
        hidden=2048,
        heads=16,
        dtype=torch.bfloat16,
        repetitions={"least": 3, "most": 50, "budget": 0.2},
    ),
    "quick": Grid(
        base=Shape(vocab=300, batch=1, length=40, views=1),
        along={"vocab": (300, 400), "batch": (1, 2), "length": (40,), "views": (1, 2)},
        hidden=16,
        heads=2,
        dtype=torch.float32,
        repetitions={"least": 1, "most": 1, "budget": 0.0},
    ),
}


def loss_jobs(shape: Shape, grid: Grid, place: torch.device) -> dict[str, Job]:
    peers = {peer.name: peer for peer in LINEAR}
    sizes = (shape.batch * shape.views, shape.length, shape.vocab, grid.dtype, str(place))
    inputs = make_loss_inputs(*sizes, masked=MASKED, hidden=grid.hidden)
    return {side: peers[name].build(inputs) for side, name in PEERS.items()}


def step_jobs(shape: Shape, grid: Grid, place: torch.device) -> dict[str, Job]:
    torch.manual_seed(0)
    model = Backbone(shape.vocab, grid.hidden, grid.heads).to(place, grid.dtype)
    rows = shape.batch * shape.views
    targets = torch.randint(0, shape.vocab, (rows, shape.length), device=place)
    mask = torch.zeros(rows, shape.length, dtype=torch.bool, device=place)
    mask[:, -round(MASKED * shape.length) :] = True
    inputs = (targets.masked_fill(mask, 0), targets, mask, torch.randn(rows, device=place))

    def of(side: str) -> Job:
        def job() -> None:
            VARIANTS[side](model, *inputs).backward()
            model.zero_grad()

        return job

    return {side: of(side) for side in PEERS}


def decode_jobs(shape: Shape, grid: Grid, place: torch.device) -> dict[str, Job]:
    mask_id = shape.vocab - 1
    sizes: dict[str, Any] = {
        "hidden_size": grid.hidden,
        "num_layers": 2,
        "num_heads": grid.heads,
        "mlp_hidden_size": 4 * grid.hidden,
    }
    model: nn.Module = new_model(vocab_size=shape.vocab, mask_id=mask_id, eos_id=0, init_std=0.1, **sizes)
    model.to(place, grid.dtype)
    prompts = torch.randint(1, mask_id, (shape.batch, shape.length - BLOCK), device=place)
    one: dict[str, Any] = {"decoder": "topk", "gen_length": BLOCK, "block_length": BLOCK, "steps": 1}
    one |= {"temperature": 0.2, "mask_id": mask_id}
    return {
        "ours": lambda: generate(model, prompts, **one),
        "published": lambda: published_generate(model, prompts, **one),
    }


JOBS: dict[str, Callable[[Shape, Grid, torch.device], dict[str, Job]]] = {
    "loss": loss_jobs,
    "training step": step_jobs,
    "decoding step": decode_jobs,
}


def shapes(grid: Grid, job: str) -> Iterator[tuple[str, Shape]]:
    """Axis and shape of every point of a job."""
    for axis in AXES:
        if axis != "views" or job != "decoding step":
            for value in grid.along[axis]:
                yield axis, replace(grid.base, **{axis: value})


def measure(setting: Setting) -> dict[str, Any]:
    grid, clock = GRIDS[setting.size], gauge(setting)
    points: list[dict[str, Any]] = []
    known: dict[tuple[str, Shape], dict[str, Any]] = {}  # by job and shape, its rows as a batch of one view
    for job, build in JOBS.items():
        for axis, shape in shapes(grid, job):
            rows = replace(shape, batch=shape.batch * shape.views, views=1)
            if (job, rows) not in known:
                sides = build(shape, grid, setting.place)
                known[job, rows] = {side: _figures(call, clock, grid) for side, call in sides.items()}
            points.append({"job": job, "axis": axis, "shape": asdict(shape), **known[job, rows]})
    for point in points:
        point["times_faster"] = point["published"]["seconds"] / point["ours"]["seconds"]
        point["times_leaner"] = point["published"]["bytes"] / max(point["ours"]["bytes"], 1)
    facts = {"hidden": grid.hidden, "dtype": str(grid.dtype).removeprefix("torch."), "masked": MASKED}
    return {**facts, "base": asdict(grid.base), "points": points}


def _figures(job: Job, clock: Gauge, grid: Grid) -> dict[str, float]:
    seconds = statistics.median(clock.times(job, **grid.repetitions))
    return {"seconds": seconds, "bytes": clock.peak(job)}


def along(results: dict[str, Any], job: str, axis: str) -> list[dict[str, Any]]:
    """The points of a job on an axis, in order of size."""
    points = [point for point in results["points"] if point["job"] == job and point["axis"] == axis]
    return sorted(points, key=lambda point: point["shape"][axis])


def answer(results: dict[str, Any]) -> str:
    """From the smallest to the largest vocabulary: how time and memory compare."""
    parts = []
    for job in JOBS:
        first, *_, last = along(results, job, "vocab")
        parts.append(
            f"{job} {first['times_faster']:.1f} to {last['times_faster']:.1f} times faster, "
            f"{first['times_leaner']:.0f} to {last['times_leaner']:.0f} times leaner"
        )
    low, *_, high = along(results, next(iter(JOBS)), "vocab")
    return f"From V = {low['shape']['vocab']} to {high['shape']['vocab']}: {'; '.join(parts)}."


def markdown(results: dict[str, Any]) -> str:
    base = ", ".join(f"{axis} {results['base'][axis]}" for axis in AXES)
    lines = [f"# Scaling, timed on {results['header']['device']}", "", answer(results), "", about(results), ""]
    lines += [f"Around {base}; H {results['hidden']}, {results['dtype']}; {results['masked']:.0%} of positions masked."]
    lines += ["The loss and the training step see batch × views rows: those two axes are one measurement there."]
    for job in JOBS:
        rows = [_row(axis, point) for axis in AXES for point in along(results, job, axis)]
        lines += ["", f"## {job}", "", table(HEAD, rows)]
    return "\n".join(lines) + "\n"


def _row(axis: str, point: dict[str, Any]) -> list[str]:
    sides = (point["ours"], point["published"])
    times = [f"{side['seconds'] * 1e3:.1f}" for side in sides]
    memory = [f"{side['bytes'] / 1e6:.1f}" for side in sides]
    return [f"{axis} {point['shape'][axis]}", *times, f"{point['times_faster']:.1f}", *memory]


def plot(results: dict[str, Any], path: Path) -> None:
    """How many times faster, and how many times less memory, along each axis."""
    title = f"Published over ours, {results['header']['device']}"
    with figure(path, 2, len(AXES), size=(15, 6.5), title=title) as grid:
        for number, axis in enumerate(AXES):
            for row, key in enumerate(("times_faster", "times_leaner")):
                axes = grid[row * len(AXES) + number]
                for job in JOBS:
                    points = along(results, job, axis)
                    axes.plot([p["shape"][axis] for p in points], [p[key] for p in points], marker="o", label=job)
                axes.set(xscale="log", yscale="log", xlabel=axis)
                axes.set_xticks(sorted({p["shape"][axis] for p in along(results, "loss", axis)}))
                axes.xaxis.set_major_formatter("{x:g}")
                axes.minorticks_off()
        grid[0].set_ylabel("times faster")
        grid[len(AXES)].set_ylabel("times less memory")
        grid[0].legend(frameon=False)
