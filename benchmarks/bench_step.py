"""What does one training step cost on a CPU, by how the loss treats unmasked positions and the vocabulary?

A 2-layer transformer with a frozen head of V = 126464, 16 rows of 192 positions, 1024 masked; float32; forward,
backward and SGD update of the layers. Three losses, the same number out of each:

- published: logits of every position, `F.cross_entropy` over all, masked after (what the released DMPO code does);
- masked:    hidden states of masked positions gathered before the head, then `F.cross_entropy` on their logits;
- ours:      `dmpo.kernels.linear_weighted_ce`.

Each runs in a process of its own, in turn, several rounds. Time: the best of all its steps, the median, and the CPU
seconds of the best, which with one thread hold on a shared machine too. Memory: the peak resident set above what the
process held before its first step. The table ends with the answer and goes to benchmarks/results/.

    python -m benchmarks.bench_step [--threads 2] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS, LENGTH, MASKED, VOCAB, HIDDEN, HEADS = 16, 192, 1024, 126464, 128, 4
VARIANTS = ("published", "masked", "ours")
TARGET = {"seconds": 0.55, "gib": 0.2}  # of "ours"
RESULTS = Path(__file__).parent / "results"


class Backbone(nn.Module):
    """Token embedding and two bidirectional layers; frozen embedding and head, as under LoRA."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, HIDDEN).requires_grad_(False)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(HIDDEN, HEADS, 4 * HIDDEN, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(HIDDEN)
        self.head = nn.Linear(HIDDEN, VOCAB, bias=False).requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)  # [N, L, H]
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


def published(model: Backbone, ids: Tensor, targets: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    logits = model.head(model(ids))  # [N, L, V]
    nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    return (weights * (nll * mask).sum(1) / mask.sum(1)).sum()


def masked(model: Backbone, ids: Tensor, targets: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    nll = F.cross_entropy(model.head(model(ids)[mask]), targets[mask], reduction="none")  # [M]
    share = (weights / mask.sum(1)).unsqueeze(1).expand_as(targets)[mask]
    return (share * nll).sum()


def ours(model: Backbone, ids: Tensor, targets: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    from dmpo.kernels import linear_weighted_ce

    return linear_weighted_ce(model(ids), model.head.weight, targets, mask, weights)[0]


def resident_bytes() -> int:
    """Resident set of this process (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class PeakResident:
    """Samples the resident set every 2 ms until stopped."""

    def __init__(self) -> None:
        self.base = self.peak = resident_bytes()
        self.running = True
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        while self.running:
            self.peak = max(self.peak, resident_bytes())
            time.sleep(0.002)

    def stop(self) -> int:
        self.running = False
        self.thread.join()
        return self.peak - self.base


def run_variant(name: str, threads: int, steps: int) -> dict[str, Any]:
    """One process's share: {"seconds": [...], "cpu_seconds": [...], "gib", "loss", "grad_norm"}."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    loss_of: Callable[..., Tensor] = {"published": published, "masked": masked, "ours": ours}[name]
    model = Backbone()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    targets = torch.randint(0, VOCAB, (ROWS, LENGTH))
    mask = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
    for row in mask:
        row[torch.randperm(LENGTH)[: MASKED // ROWS]] = True
    ids = targets.masked_fill(mask, VOCAB - 1)
    weights = torch.randn(ROWS)
    model(ids[:1]).sum().backward()  # threads and workspaces exist
    optimizer.zero_grad()
    if name == "ours":
        import dmpo.kernels  # noqa: F401 - its import is not part of a step

    watch, seconds, cpu_seconds = PeakResident(), [], []
    for _ in range(steps):
        start, cpu_start = time.perf_counter(), time.process_time()
        loss = loss_of(model, ids, targets, mask, weights)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1e9)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "gib": watch.stop() / 2**30,
        "loss": loss.item(),
        "grad_norm": norm.item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="steps of each process")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(run_variant(options.variant, options.threads, options.steps)))
        return
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    env = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ  # threads that wait do not spin: fair to all on a shared machine
    load = os.getloadavg()[0]
    for _ in range(options.rounds):
        for name in VARIANTS:
            command = [sys.executable, "-m", "benchmarks.bench_step", "--variant", name]
            command += ["--threads", str(options.threads), "--steps", str(options.steps)]
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
    report(runs, options.threads, load)


def report(runs: dict[str, list[dict[str, Any]]], threads: int, load: float) -> None:
    """Print the table and write the JSON."""
    rows = {
        name: {
            "seconds_best": min(s for run in found for s in run["seconds"]),
            "seconds_median": statistics.median(s for run in found for s in run["seconds"]),
            "cpu_seconds_best": min(s for run in found for s in run["cpu_seconds"]),
            "gib": max(run["gib"] for run in found),
            "loss": found[0]["loss"],
            "grad_norm": found[0]["grad_norm"],
        }
        for name, found in runs.items()
    }
    print(f"{'':10} {'best s':>8} {'median s':>9} {'CPU s':>7} {'GiB':>6} {'loss':>12} {'grad norm':>12}")
    for name, row in rows.items():
        print(
            f"{name:10} {row['seconds_best']:8.3f} {row['seconds_median']:9.3f} {row['cpu_seconds_best']:7.3f} "
            f"{row['gib']:6.2f} {row['loss']:12.6f} {row['grad_norm']:12.6f}"
        )
    first, mine = rows["published"], rows["ours"]
    print(f"load average before the first run: {load:.1f} on {os.cpu_count()} cores")
    print(
        f"ours: {first['seconds_best'] / mine['seconds_best']:.1f} times faster than published, "
        f"{first['gib'] / max(mine['gib'], 1e-3):.0f} times less memory; "
        f"target {TARGET['seconds']} s and {TARGET['gib']} GiB: "
        f"{'met' if mine['seconds_best'] <= TARGET['seconds'] and mine['gib'] <= TARGET['gib'] else 'MISSED'}"
    )
    RESULTS.mkdir(exist_ok=True)
    shape = {"rows": ROWS, "length": LENGTH, "masked": MASKED, "vocab": VOCAB, "hidden": HIDDEN}
    about = {"device": platform.processor() or platform.machine(), "threads": threads, "torch": torch.__version__}
    about |= {"load_average_before": round(load, 1), "cores": os.cpu_count()}
    path = RESULTS / f"step-cpu-{threads}-threads.json"
    path.write_text(json.dumps({"shape": shape, **about, "target": TARGET, "variants": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
