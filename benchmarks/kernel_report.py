"""What do the kernels compile to, and how much do they move, next to their peers? Answered with no GPU.

Prints two tables and writes them to benchmarks/results/kernel_report.{json,md}:

    python -m benchmarks.kernel_report            # whole
    python -m benchmarks.kernel_report --no-compile

Peers are counted where they are installed: pip install liger-kernel cut-cross-entropy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"

# From logits: LLaDA's vocabulary, few rows. Linear: LLaDA's V / H = 31 and 28 % of positions masked, all smaller;
# 256 masked rows (28 % of 457, twice) fill the largest row block of every peer, cut-cross-entropy's.
LOGIT_ROWS, LOGIT_LENGTH, VOCAB = 2, 8, 126464
LINEAR_ROWS, LINEAR_LENGTH, LINEAR_HIDDEN, LINEAR_VOCAB = 2, 457, 128, 3968
MASKED = 0.28
SAMPLED_ROWS = 8


def compile_table() -> list[dict[str, Any]]:
    """`benchmarks.cubin` in a process of its own, where kernels are compiled and not interpreted."""
    env = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "DMPO_PLAIN")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "compiled.json"
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.cubin", "--json", str(path)]
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
        if not path.is_file():
            raise RuntimeError(f"benchmarks.cubin failed:\n{done.stderr[-2000:]}")
        return json.loads(path.read_text())


def count(job: Any, floor: dict[str, int]) -> dict[str, Any]:
    """Ratios of one job's traffic to the floor of its problem; an error is reported in its place."""
    import torch

    from benchmarks.meter import measure, names

    try:
        with torch.compiler.set_stance("force_eager"):  # a peer's compiled helpers: their aten ops are what is counted
            job()  # caches and autotuners first
            traffic = measure(job)
    except Exception as error:
        traceback.print_exc(limit=3)
        return {"error": f"{type(error).__name__}: {str(error)[:120]}"}
    return {
        "reads": traffic.bytes_read / floor["read"],
        "writes": traffic.bytes_written / floor["write"],
        "flops": traffic.flops / floor["flops"] if floor["flops"] else None,
        "peak": traffic.peak_bytes / floor["peak"],
        "launches": traffic.launches,
        "heaviest": names(traffic, 4),
        "bytes_read": traffic.bytes_read,
        "bytes_written": traffic.bytes_written,
    }


def meter_logits(masked: float) -> dict[str, Any]:
    import torch

    from benchmarks.peers import LOGITS, load, make_loss_inputs

    peers, _ = load(LOGITS)
    found = {}
    for peer in peers:
        i = make_loss_inputs(LOGIT_ROWS, LOGIT_LENGTH, VOCAB, torch.bfloat16, "cpu", masked=masked)
        live = int(i.mask.sum()) * VOCAB * 2
        found[peer.name] = count(peer.build(i), {"read": live, "write": live, "flops": 0, "peak": live})
    return found


def meter_linear(trainable: bool) -> dict[str, Any]:
    import torch

    from benchmarks.peers import LINEAR, interpretable_cut_cross_entropy, load, make_loss_inputs

    peers, versions = load(LINEAR)
    if versions["cut-cross-entropy"] != "not installed":
        interpretable_cut_cross_entropy()
    found = {}
    for peer in peers:
        i = make_loss_inputs(
            LINEAR_ROWS,
            LINEAR_LENGTH,
            LINEAR_VOCAB,
            torch.float16,
            "cpu",
            masked=MASKED,
            hidden=LINEAR_HIDDEN,
            trainable_head=trainable,
        )
        live, head = int(i.mask.sum()), LINEAR_VOCAB * LINEAR_HIDDEN
        floor = {"read": head * 2, "write": head * 2, "flops": live * head, "peak": live * LINEAR_VOCAB * 2}
        found[peer.name] = count(peer.build(i), floor)
    return found


def meter_sampling(temperature: float) -> dict[str, Any]:
    import torch

    from benchmarks.peers import SAMPLING, load

    logits = (torch.randn(SAMPLED_ROWS, VOCAB, generator=torch.Generator().manual_seed(0)) * 3).bfloat16()
    size = SAMPLED_ROWS * VOCAB * 2
    peers, _ = load(SAMPLING)
    return {
        peer.name: count(
            peer.build(logits, temperature), {"read": size, "write": size, "flops": 0, "peak": size}
        )
        for peer in peers
    }  # fmt: skip


def meter_all() -> dict[str, Any]:
    """Every table of the meter: title -> peer -> ratios."""
    linear = f"H {LINEAR_HIDDEN}, V {LINEAR_VOCAB}, {LINEAR_ROWS * LINEAR_LENGTH} positions, 28 % masked, fp16"
    rows = LOGIT_ROWS * LOGIT_LENGTH
    return {
        f"From logits, forward and backward, {rows} positions, all masked, V {VOCAB}, bf16": meter_logits(1.0),
        f"From logits, forward and backward, {rows} positions, 1 in 4 masked, V {VOCAB}, bf16": meter_logits(0.25),
        f"From hidden states, forward and backward, frozen head, {linear}": meter_linear(False),
        f"From hidden states, forward and backward, trainable head, {linear}": meter_linear(True),
        f"Sampling, T = 0, {SAMPLED_ROWS} rows, V {VOCAB}, bf16": meter_sampling(0.0),
        f"Sampling, T = 0.2, {SAMPLED_ROWS} rows, V {VOCAB}, bf16": meter_sampling(0.2),
        f"Sampling, T = 1, {SAMPLED_ROWS} rows, V {VOCAB}, bf16": meter_sampling(1.0),
    }


UNITS = """Counted as `benchmarks/meter.py` says. From logits and sampling: reads, writes and peak in bytes of the live
logits, so 1.0 is each live logit read, or written, once; a dead row's gradient is zeros that autograd wants
written. From hidden states: reads and writes in bytes of lm_head, FLOPs in H·V per masked row (one matrix product is
2), peak in bytes of the masked rows' logits. Peak is the most that was allocated at once above the inputs, gradients
included. At these small sizes the masked rows' logits, in float32, fit the one piece that dmpo and PyTorch may hold
(tens of MB): peaks compare as a bound only from LLaDA's sizes on. From hidden states 256 rows are masked, which fills
the row blocks of every peer; those that do not gather masked rows meet them among the others."""


COMPILED = """{kernels} kernels, every variant an op can launch; {spilled} spill, {faults} with any fault. Kernels that
end on `_odd` are what logits get whose rows do not start on 16 bytes, as an odd vocabulary makes them: elements are
loaded one by one there. Those on `_one` handle rows gathered before the launch, or one column; on `_last` the
vocabulary's last tile; on `_far` strides of 2^31 and more."""


def meter_markdown(tables: dict[str, Any]) -> str:
    from benchmarks.peers import LINEAR, LOGITS, easier

    parts = [UNITS, easier(LOGITS + LINEAR)]
    for title, peers in tables.items():
        lines = [f"### {title}", "", "| | reads | writes | FLOPs | peak | launches |", "|---|---|---|---|---|---|"]
        for name, row in peers.items():
            if "error" in row:
                lines.append(f"| {name} | not measured: {row['error']} | | | | |")
                continue
            flops = "–" if row["flops"] is None else f"{row['flops']:.2f}"
            cells = (f"{row['reads']:.3f}", f"{row['writes']:.3f}", flops, f"{row['peak']:.2f}", str(row["launches"]))
            lines.append(f"| {name} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def markdown(whole: dict[str, Any]) -> str:
    """The report of what kernel_report.json holds."""
    from benchmarks.cubin import Compiled, table

    versions, compiled = whole["versions"], whole["compiled"]
    text = ["# Kernels: traffic and code", ", ".join(f"{name} {found}" for name, found in versions.items())]
    text += ["## Traffic, FLOPs and memory", meter_markdown(whole["meter"])]
    if compiled:
        rows = [Compiled(**{k: v for k, v in row.items() if k != "faults"}) for row in compiled]
        faults = sum(bool(row["faults"]) for row in compiled)
        spilled = sum(row.spills > 0 for row in rows)
        text += ["## Compiled code", COMPILED.format(kernels=len(rows), spilled=spilled, faults=faults), table(rows)]
    return "\n\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-compile", action="store_true", help="only the meter; the compile table is left out")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the two files")
    arguments = parser.parse_args()

    compiled = [] if arguments.no_compile else compile_table()
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ.pop("DMPO_PLAIN", None)
    import torch

    from benchmarks.peers import LINEAR, LOGITS, load

    torch.set_num_threads(min(2, os.cpu_count() or 1))
    versions = load(LOGITS + LINEAR)[1] | {"python": platform.python_version()}
    from benchmarks.interpreter import quick_interpreter

    with quick_interpreter():
        tables = meter_all()

    whole = {"versions": versions, "meter": tables, "compiled": compiled}
    report = markdown(whole)
    print(report)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "kernel_report.md").write_text(report)
    (arguments.output / "kernel_report.json").write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
