"""How long does a rollout take, how many model calls, and how much memory, beside the decoders as published?

A tiny LLaDA with the real vocabulary (V = 126464, d = 128, 2 layers, float32, random weights), 4 prompts of 64 tokens,
128 new ones, blocks of 32, 64 steps, T = 0 and 0.2. Ours is `dmpo.generate`; published is published_decoders.py: logits
of all positions, float64 softmax and noise over the whole vocabulary. Each decoder, temperature and side has a process
of its own, and one short call before the timed ones. Memory is the peak above what the process held before any call:
resident set, on a GPU what torch allocated. At T = 0 the tokens are compared.

Then calls alone, on the embedded Sudoku model, whose confidences mean something: WINO on batches of 8 against row by
row, and a threshold on 16 rows of mixed difficulty, each at its own pace, against lockstep, where every block waits for
its slowest row.

    python -m benchmarks.bench_decoders [--threads 2] [--repeats 5] [--published-repeats 1] [--device cpu]

Tables, JSON and a chart go to benchmarks/results/decoders-*; with --decoders or --temperatures (a trial) none do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.bench_step import PeakResident
from benchmarks.decoder_report import markdown, plot, row_text
from benchmarks.published_decoders import published_generate
from dmpo import generate, load_model
from dmpo.models import load_tokenizer, new_model
from dmpo.tasks import Sudoku4

SHAPE = {"batch": 4, "prompt_length": 64, "gen_length": 128, "block_length": 32, "steps": 64}
# Weights of ten times the usual spread: with the usual one rounding decides which of many best tokens comes first.
MODEL: dict[str, Any] = {
    "vocab_size": 126464,
    "hidden_size": 128,
    "num_layers": 2,
    "num_heads": 4,
    "mlp_hidden_size": 512,
    "mask_id": 126336,
    "eos_id": 126081,
    "init_std": 0.2,
}
DECODERS, TEMPERATURES, SIDES = ("topk", "prefix_cache", "dual_cache"), (0.0, 0.2), ("ours", "published")
TARGETS = {  # seconds on two CPU threads, and times faster than published
    "topk": {0.0: (3.0, 5.5), 0.2: (3.5, 30.0)},
    "prefix_cache": {0.0: (2.5, 5.5), 0.2: (3.0, 30.0)},
    "dual_cache": {0.0: (2.0, 3.5), 0.2: (2.5, 11.0)},
}
BATCHES = 8  # of puzzles, for the counts of calls
RESULTS = Path(__file__).parent / "results"


def run_side(side: str, decoder: str, temperature: float, repeats: int, device: str) -> dict[str, Any]:
    """One process's share: {"seconds", "cpu_seconds": [...], "gib", "forwards", "row_forwards", "tokens"}.

    CPU seconds, with one thread, hold on a busy machine too. Tokens are those of the completion.
    """
    model: Any = new_model(**MODEL)
    model.to(device)
    prompts = torch.randint(0, 120_000, (SHAPE["batch"], SHAPE["prompt_length"]), generator=torch.manual_seed(0))
    prompts = prompts.to(device)

    def decode(gen_length: int, steps: int) -> tuple[Tensor, int, int]:
        options: dict[str, Any] = {"decoder": decoder, "gen_length": gen_length, "steps": steps}
        options |= {"block_length": SHAPE["block_length"], "temperature": temperature}
        if side == "ours":
            made = generate(model, prompts, **options)
            return made.sequences, made.forwards, made.row_forwards
        sequences, forwards = published_generate(model, prompts, mask_id=MODEL["mask_id"], **options)
        return sequences, forwards, forwards * len(prompts)

    with torch.no_grad():
        model.model(prompts[:1])  # threads and workspaces exist
    watch = _Peak(device)
    decode(SHAPE["block_length"], 2)
    seconds, cpu_seconds = [], []
    for _ in range(repeats):
        _wait(device)
        start, cpu_start = time.perf_counter(), time.process_time()
        sequences, forwards, row_forwards = decode(SHAPE["gen_length"], SHAPE["steps"])
        _wait(device)
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "gib": watch.gib(),
        "forwards": forwards,
        "row_forwards": row_forwards,
        "tokens": sequences[:, SHAPE["prompt_length"] :].tolist(),
    }


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


class _Peak:
    """Memory above what is held now, on the device."""

    def __init__(self, device: str) -> None:
        self.resident = PeakResident() if device == "cpu" else None
        if self.resident is None:
            torch.cuda.reset_peak_memory_stats(device)
            self.base = torch.cuda.memory_allocated(device)

    def gib(self) -> float:
        peak = self.resident.stop() if self.resident else torch.cuda.max_memory_allocated() - self.base
        return peak / 2**30


def count_calls(device: str) -> dict[str, list[dict[str, Any]]]:
    """Model calls of ours and published on puzzles of 1 to 15 holes, batch by batch, T = 0."""
    folder = Path(sys.modules["dmpo"].__file__ or "").parent / "assets" / "sudoku-tiny"
    model: Any = load_model(folder, dtype="float32", device=device)
    tokenizer = load_tokenizer(folder)
    task = Sudoku4(min_holes=1, max_holes=15)
    mask_id = model.config.mask_token_id
    counts: dict[str, list[dict[str, Any]]] = {"wino": [], "threshold": []}
    jobs = {
        "wino": (8, {"decoder": "wino", "block_length": 8}),
        "threshold": (16, {"decoder": "parallel", "threshold": 0.9, "block_length": 4}),
    }
    for name, (rows, options) in jobs.items():
        for batch in range(BATCHES):
            puzzles = [task.row("test", batch * rows + i)["prompt"] for i in range(rows)]
            prompts = torch.tensor(tokenizer(puzzles, add_special_tokens=False)["input_ids"], device=device)
            same: dict[str, Any] = {"gen_length": 16, "steps": 16, **options}
            ours = generate(model, prompts, **same)
            sequences, forwards = published_generate(model, prompts, mask_id=mask_id, **same)
            made = {"forwards": ours.forwards, "row_forwards": ours.row_forwards, "published_forwards": forwards}
            # One at a time a row costs its calls; in lockstep every row goes through every call.
            made["published_row_forwards"] = forwards if name == "wino" else forwards * rows
            made["same_rows"] = int((ours.sequences == sequences).all(1).sum())
            counts[name].append({"rows": rows} | made)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of ours")
    parser.add_argument("--published-repeats", type=int, default=1, help="timed runs of the published decoders")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--decoders", nargs="+", choices=DECODERS, help="these alone; then nothing is written")
    parser.add_argument("--temperatures", nargs="+", type=float, help="these alone; then nothing is written")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.threads, options.repeats, options.published_repeats) < 1:
        parser.error("--threads, --repeats and --published-repeats must be at least 1")
    torch.set_num_threads(options.threads)
    decoders, temperatures = options.decoders or DECODERS, options.temperatures or TEMPERATURES
    if options.side:
        print(json.dumps(run_side(options.side, decoders[0], temperatures[0], options.repeats, options.device)))
        return
    loads = [os.getloadavg()[0]]
    runs = []
    for decoder in decoders:
        for temperature in temperatures:
            sides = {side: _child(side, decoder, temperature, options) for side in SIDES}
            runs.append(compare(decoder, temperature, **sides))
            print(row_text(runs[-1]), flush=True)
            loads.append(os.getloadavg()[0])
    device = (
        torch.cuda.get_device_name(options.device) if options.device != "cpu" else f"CPU, {options.threads} threads"
    )
    results = {
        "device": device,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
        "load_average": [round(min(loads), 1), round(max(loads), 1)],
        "model": MODEL,
        "shape": SHAPE,
        "runs": runs,
        "calls": count_calls(options.device),
    }
    text = markdown(results)
    print(text)
    if options.decoders or options.temperatures:
        print("A trial: nothing is written.")
        return
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"decoders-{re.sub('[^a-z0-9]+', '-', device.lower())}"
    stem.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    stem.with_suffix(".md").write_text(text)
    plot(results, stem.with_suffix(".png"))


def _child(side: str, decoder: str, temperature: float, options: argparse.Namespace) -> dict[str, Any]:
    """`run_side` in a process of its own."""
    repeats = options.repeats if side == "ours" else options.published_repeats
    command = [sys.executable, "-m", "benchmarks.bench_decoders", "--side", side, "--decoders", decoder]
    command += ["--temperatures", str(temperature), "--repeats", str(repeats), "--device", options.device]
    command += ["--threads", str(options.threads)]
    env = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ  # threads that wait do not spin: fair to all on a shared machine
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(decoder: str, temperature: float, ours: dict[str, Any], published: dict[str, Any]) -> dict[str, Any]:
    """One line of the table. At T > 0 the two draw other numbers, and `same_tokens` is None."""
    same = torch.tensor(ours.pop("tokens")) == torch.tensor(published.pop("tokens"))
    for side in (ours, published):
        side["seconds_best"], side["seconds_median"] = min(side["seconds"]), statistics.median(side["seconds"])
    ratio = published["seconds_best"] / ours["seconds_best"]
    line = {"decoder": decoder, "temperature": temperature, "ours": ours, "published": published, "ratio": ratio}
    line["same_tokens"] = float(same.float().mean()) if temperature == 0 else None
    seconds, times = TARGETS[decoder].get(temperature, (None, None))
    return line | {"target_seconds": seconds, "target_ratio": times}


if __name__ == "__main__":
    main()
