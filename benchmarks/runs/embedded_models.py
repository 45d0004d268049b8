"""Does `make train` improve an embedded model on held-out puzzles, over several seeds, and in what time?

Runs `dmpo train CONFIG` once a seed (each in its own process, as a user would), and writes the summaries, the mean over
seeds and the plot of the first seed to benchmarks/results/CONFIG/. `python -m benchmarks.first_light` is its command.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.harness.markdown import table
from benchmarks.harness.provenance import RESULTS
from dmpo.config import DMPOConfig
from dmpo.config.files import load_config
from dmpo.tasks import Row, load_task

DEFAULT = "sudoku-tiny"
WHEN = ("before", "after")
KEYS = (
    "sampled_accuracy_before",
    "sampled_accuracy_after",
    "greedy_accuracy_before",
    "greedy_accuracy_after",
    "seconds",
)


def run_seed(config: str, seed: int, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """One run; its summary."""
    command = [sys.executable, "-m", "dmpo", "train", config, f"seed={seed}", f"output_dir={folder}", *overrides]
    subprocess.run(command, check=True)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    summary.pop("output_dir")
    return summary


def different_rows(config: str, rows: int) -> int:
    """How many of the first test rows of a config's task are different puzzles, whatever the order of their numbers."""
    settings = load_config(DMPOConfig, config)
    task = load_task(settings.task, **settings.task_options)
    return len({_puzzle(task.row("test", index)) for index in range(rows)})


def _puzzle(row: Row) -> str:
    return repr([sorted(value) if isinstance(value, list) else value for key, value in row.items() if key != "prompt"])


def markdown(results: dict[str, Any], *, seeds: bool = True) -> str:
    """The table of a results file. seeds: with a row for each."""
    runs, rows, different = results["runs"], results["runs"][0]["test_rows"], results.get("different_test_rows")
    head = [
        f"{rows} held-out puzzles",
        *(f"{kind}, {when}" for kind in ("sampled", "greedy") for when in WHEN),
        "seconds",
    ]
    lines = [_row(f"seed {run['seed']}", run) for run in runs] if seeds else []
    lines.append(_row(f"**mean of {len(runs)} seeds**", results["mean"]))
    notes = f" {different} of the {rows} puzzles are different." if different not in (None, rows) else ""
    if results.get("jobs", 1) > 1:
        notes += f" {results['jobs']} runs side by side: the machine was busy, so the seconds are too high."
    setting = f"{results['cores']} CPU cores, torch {results['torch']}, {results['date']}.{notes}"
    return f"{table(head, lines)}\n\n{setting}"


def _row(name: str, values: dict[str, Any]) -> list[str]:
    return [name, *(f"{values[key]:.1%}" for key in KEYS[:-1]), f"{values['seconds']:.0f}"]


def measure(config: str, seeds: list[int], jobs: int, overrides: list[str]) -> dict[str, Any]:
    """Run every seed and write the results, unless overrides make it a trial; the results.

    jobs: runs side by side; with more than one, their seconds are no figures.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folders = {seed: Path(scratch) / f"seed-{seed}" for seed in seeds}
        with ThreadPoolExecutor(jobs) as pool:
            runs = list(pool.map(lambda seed: run_seed(config, seed, folders[seed], overrides), seeds))
        options = f"--config {config} " if config != DEFAULT else ""
        options += f"--jobs {jobs} " if jobs > 1 else ""
        results = {
            "command": f"python -m benchmarks.first_light {options}--seeds {' '.join(map(str, seeds))}",
            "date": date.today().isoformat(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "torch": runs[0]["torch"],
            "jobs": jobs,
            "different_test_rows": different_rows(config, runs[0]["test_rows"]),
            "runs": runs,
            "mean": {key: statistics.fmean(run[key] for run in runs) for key in KEYS},
        }
        if not overrides:
            written = RESULTS / config
            written.mkdir(parents=True, exist_ok=True)
            (written / "first_light.json").write_text(json.dumps(results, indent=2) + "\n")
            shutil.copy(folders[seeds[0]] / "training.png", written / "training.png")
    return results
