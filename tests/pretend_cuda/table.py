"""Counts the launches of every pass and op, and writes them down.

    python -m tests.pretend_cuda.table

Writes docs/launches.md and benchmarks/results/launches.json; about two minutes on one core.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from typing import Any

from tests.pretend_cuda.hooks import ROOT, refusal
from tests.pretend_cuda.run import run_groups

DATA, PAGE = ROOT / "benchmarks" / "results" / "launches.json", ROOT / "docs" / "launches.md"
GROUP = "launch_group"
PACKAGES = ("torch", "triton", "transformers", "peft")  # whose versions decide what is launched
COMMAND = "python -m tests.pretend_cuda.table"
KEYS = {
    "versions": "packages that the counts were made with",
    "layers": "transformer layers that `launches` of a pass is for",
    "passes": "by name: what one model call, and what belongs to it, launches",
    "passes.*.layer": "launches of one layer",
    "passes.*.outside": "launches outside of layers: embedding, head, draw, remasking, bookkeeping, or loss",
    "passes.*.launches": "layers * layer + outside",
    "passes.*.syncs": "times that the host waits for the device, in all",
    "passes.*.layer_operators, outside_operators": "the same launches by operator; a Triton kernel is `triton NAME`",
    "ops": "by name: one call of an op of dmpo.kernels, its backward included where it has one",
    "ops.*.launches, syncs, operators": "as of a pass",
}


def versions() -> dict[str, str]:
    """Of what decides the launches, without local suffixes."""
    return {name: importlib.metadata.version(name).split("+")[0] for name in PACKAGES}


def count() -> dict[str, Any]:
    """What launches.json holds.

    Raises:
        RuntimeError: there can be no pretend device here, or a case failed, with the reason.
    """
    if reason := refusal():
        raise RuntimeError(reason)
    rows = run_groups(GROUP)[GROUP]
    for name, row in rows.items():
        if "error" in row:
            raise RuntimeError(f"{name}: {row['error']}")
    rows = {name: figures(row) for name, row in rows.items()}
    passes = {name: row for name, row in rows.items() if "layer" in row}
    ops = {name: row for name, row in rows.items() if "layer" not in row}
    return {"keys": KEYS, "versions": versions(), "layers": 32, "passes": passes, "ops": ops}


def figures(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as it is kept: without what depends on the machine."""
    return {key: value for key, value in row.items() if key != "cpu_seconds"}


def page(table: Mapping[str, Any]) -> str:
    """docs/launches.md of what launches.json holds."""
    made_with = ", ".join(f"{name} {version}" for name, version in table["versions"].items())
    layers = table["layers"]
    passes = [
        f"| {name} | {row['layer']} | {row['outside']} | {row['launches']} | {row['syncs']} |"
        for name, row in table["passes"].items()
    ]
    ops = [f"| {name} | {row['launches']} | {row['syncs']} |" for name, row in table["ops"].items()]
    keys = [f"- `{key}`: {meaning}" for key, meaning in table["keys"].items()]
    return "\n".join(
        [
            INTRODUCTION.format(made_with=made_with),
            PASSES.format(layers=layers),
            *passes,
            OPS,
            *ops,
            DATA_PAGE,
            *keys,
            "",
        ]
    )


INTRODUCTION = """# Launches and waits

What dmpo asks a GPU to do, counted without a GPU. The counts come from the pretend device of `tests/pretend_cuda/`. Its
tensors say that they are on `cuda:0` and live on the CPU, so dmpo takes every branch for a GPU. One command counts all
of this page and writes it, and a test counts a part of it again:

```sh
python -m tests.pretend_cuda.table
```

The versions were {made_with}; others launch other operators.

- A *launch* is an operator of PyTorch that has work to do, a Triton kernel, an operator of `csrc/`, or a copy between
  host and device. For some operators of PyTorch CUDA has several kernels (`sort`, `nonzero`, `cumsum`), so a profiler
  shows a few more. Attention is one launch, and its backward is another. Views and allocations launch nothing.
- At a *sync* the host waits for the device, because it reads a value or a size there, or copies between the two. A
  copy from pinned memory that does not block is no sync.
- The model is a LLaDA in 16 bits. LoRA is on all linear layers where a row says so, with a dropout of 0.05. The
  optimiser is not counted.

## Passes
"""
PASSES = """\
A decoding pass is a whole step: the model, the head on masked positions, the draw, the remasking, the bookkeeping. It
is not the first step of its block, which has a few launches more. A scoring pass is `sequence_log_prob` on one batch of
views. A micro-batch is the forward and the backward of the weighted cross-entropy.

| | a layer | outside of layers | {layers} layers | syncs |
|---|---|---|---|---|"""
OPS = """
## Ops

One call at LLaDA's vocabulary (V = 126464) in 16 bits, backward included where there is one. The rows are few, so the
whole vocabulary is one tile of logits. Where rows fill the tile, linear cross-entropy takes 16 tiles, with three
launches each.

| | launches | syncs |
|---|---|---|"""
DATA_PAGE = """
## The same as data

`benchmarks/results/launches.json` holds these figures and, for each, the launches by operator. Its keys:
"""


def main() -> None:
    table = count()
    DATA.write_text(json.dumps(table, indent=1) + "\n")
    PAGE.write_text(page(table))
    print(f"wrote {PAGE.relative_to(ROOT)} and {DATA.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
