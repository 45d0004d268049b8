"""What does one training step cost, by how the loss treats unmasked positions and the vocabulary?

    python -m benchmarks --only step [--device cuda]

A 2-layer transformer with a frozen head of V = 126464; on a CPU 16 rows of 192 positions, 1024 masked, H = 128,
float32; forward, backward and SGD update of the layers. Three losses, the same number out of each:

- published: logits of every position, `F.cross_entropy` over all, masked after (what the released DMPO code does);
- masked:    hidden states of masked positions gathered before the head, then `F.cross_entropy` on their logits;
- ours:      `dmpo.kernels.linear_weighted_ce`.

Each runs in a process of its own, in turn, several rounds. Time: the best of all its steps, the median, and the CPU
seconds of the best step, which with one thread are right on a shared machine, too. Memory: the peak above the memory
before the first step, of the resident set or, on a GPU, of PyTorch's allocator. The Markdown starts with the answer.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.baselines.training_step import Backbone, masked, published
from benchmarks.harness.child import in_own_process
from benchmarks.harness.clock import gauge, timed_steps
from benchmarks.harness.markdown import table
from benchmarks.harness.setting import Setting, about
from dmpo.kernels import linear_weighted_ce


@dataclass(frozen=True)
class Shape:
    """rows of `length` positions, `masked` of them all together; rounds of `steps` steps each."""

    rows: int
    length: int
    masked: int
    vocab: int
    hidden: int
    heads: int
    dtype: torch.dtype = torch.float32
    rounds: int = 3
    steps: int = 3


SHAPES = {
    "cpu": Shape(rows=16, length=192, masked=1024, vocab=126464, hidden=128, heads=4, rounds=2),
    "cuda": Shape(rows=16, length=512, masked=2048, vocab=126464, hidden=4096, heads=32, dtype=torch.bfloat16, steps=5),
    "quick": Shape(rows=4, length=16, masked=16, vocab=300, hidden=16, heads=2, rounds=1, steps=1),
}
TARGETS = {"times_faster": 4.5, "memory_share": 1 / 20}  # of "ours" against "published"


def ours(model: Backbone, ids: Tensor, targets: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    return linear_weighted_ce(model(ids), model.head.weight, targets, mask, weights)[0]


VARIANTS: dict[str, Callable[..., Tensor]] = {"published": published, "masked": masked, "ours": ours}


def run_variant(setting: Setting, name: str) -> dict[str, Any]:
    """One process's share: {"seconds": [...], "cpu_seconds": [...], "bytes", "loss", "grad_norm"}."""
    shape, place, clock = SHAPES[setting.size], setting.place, gauge(setting)
    torch.manual_seed(0)
    model = Backbone(shape.vocab, shape.hidden, shape.heads).to(place, shape.dtype)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    targets = torch.randint(0, shape.vocab, (shape.rows, shape.length))
    mask = torch.zeros(shape.rows, shape.length, dtype=torch.bool)
    for row in mask:
        row[torch.randperm(shape.length)[: shape.masked // shape.rows]] = True
    ids = targets.masked_fill(mask, shape.vocab - 1)
    inputs = [x.to(place) for x in (ids, targets, mask, torch.randn(shape.rows))]
    model(inputs[0][:1]).sum().backward()  # threads and workspaces exist
    optimizer.zero_grad()

    def step() -> tuple[Tensor, Tensor]:
        loss = VARIANTS[name](model, *inputs)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1e9)
        optimizer.step()
        optimizer.zero_grad()
        return loss, norm

    watch = clock.watch()
    (loss, norm), times = timed_steps(clock, step, shape.steps)
    return {**times, "bytes": watch.stop(), "loss": loss.item(), "grad_norm": norm.item()}


def measure(setting: Setting) -> dict[str, Any]:
    shape = SHAPES[setting.size]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    for _ in range(shape.rounds):
        for name in VARIANTS:
            runs[name].append(in_own_process(run_variant, setting, name=name))
    rows = {
        name: {
            "seconds_best": min(s for run in found for s in run["seconds"]),
            "seconds_median": statistics.median(s for run in found for s in run["seconds"]),
            "cpu_seconds_best": min(s for run in found for s in run["cpu_seconds"]),
            "bytes": max(run["bytes"] for run in found),
            "loss": found[0]["loss"],
            "grad_norm": found[0]["grad_norm"],
        }
        for name, found in runs.items()
    }
    first, mine = rows["published"], rows["ours"]
    result = {name: getattr(shape, name) for name in ("rows", "length", "masked", "vocab", "hidden")}
    return {
        "shape": result | {"dtype": str(shape.dtype).removeprefix("torch.")},
        "variants": rows,
        "times_faster": first["seconds_best"] / mine["seconds_best"],
        "memory_share": max(mine["bytes"], 1) / max(first["bytes"], 1),
        "targets": TARGETS,
    }


def verdicts(results: dict[str, Any]) -> tuple[str, str]:
    """Of the time and of the memory."""
    targets = results["targets"]
    faster = "met" if results["times_faster"] >= targets["times_faster"] else "MISSED"
    leaner = "met" if results["memory_share"] <= targets["memory_share"] else "MISSED"
    return faster, leaner


def markdown(results: dict[str, Any]) -> str:
    shape, targets, (faster, leaner) = results["shape"], results["targets"], verdicts(results)
    lines = [
        f"# One training step, timed on {results['header']['device']}",
        "",
        f"Ours is {results['times_faster']:.1f} times faster than published (target {targets['times_faster']:g}: "
        f"{faster}) with 1/{1 / results['memory_share']:.0f} of its memory (target "
        f"1/{1 / targets['memory_share']:.0f}: {leaner}).",
        "",
        about(results),
        "",
        f"{shape['rows']} rows of {shape['length']} positions, {shape['masked']} masked, V = {shape['vocab']}, H = "
        f"{shape['hidden']}, {shape['dtype']}.",
        "",
    ]
    rows = []
    for name, row in results["variants"].items():
        seconds = [f"{row[key]:.3f}" for key in ("seconds_best", "seconds_median", "cpu_seconds_best")]
        rows.append([name, *seconds, f"{row['bytes'] / 1e6:.0f}", f"{row['loss']:.6f}", f"{row['grad_norm']:.6f}"])
    lines.append(table(["", "s, best", "s, median", "CPU s, best", "peak MB", "loss", "gradient norm"], rows))
    return "\n".join(lines) + "\n"
