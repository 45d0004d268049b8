"""Question: does `make train` lift the embedded model on held-out puzzles, over several seeds, and in what time?

    python -m benchmarks.first_light --seeds 0 1 2

Runs `dmpo train sudoku-tiny` once a seed (each in its own process, as a user would), and writes the summaries, the
mean over seeds and the plot of the first seed to benchmarks/results/sudoku-tiny/. The Markdown table that it prints is
the one in the README.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "sudoku-tiny"
KEYS = (
    "sampled_accuracy_before",
    "sampled_accuracy_after",
    "greedy_accuracy_before",
    "greedy_accuracy_after",
    "seconds",
)


def run_seed(seed: int, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """One run; its summary."""
    command = [sys.executable, "-m", "dmpo", "train", "sudoku-tiny", f"seed={seed}", f"output_dir={folder}", *overrides]
    subprocess.run(command, check=True)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    summary.pop("output_dir")
    return summary


def markdown(results: dict[str, Any]) -> str:
    """The table of a results file."""
    lines = [
        f"| {results['runs'][0]['test_rows']} held-out puzzles | sampled, before | sampled, after | greedy, before "
        "| greedy, after | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for run in results["runs"]:
        lines.append(_row(f"seed {run['seed']}", run))
    lines.append(_row(f"**mean of {len(results['runs'])} seeds**", results["mean"]))
    lines += ["", f"{results['cores']} CPU cores, torch {results['torch']}, {results['date']}."]
    return "\n".join(lines)


def _row(name: str, values: dict[str, Any]) -> str:
    cells = [f"{values[key]:.1%}" for key in KEYS[:-1]] + [f"{values['seconds']:.0f}"]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="config keys, for a trial; then nothing is written"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folders = {seed: Path(scratch) / f"seed-{seed}" for seed in arguments.seeds}
        runs = [run_seed(seed, folder, arguments.overrides) for seed, folder in folders.items()]
        results = {
            "command": f"python -m benchmarks.first_light --seeds {' '.join(map(str, arguments.seeds))}",
            "date": date.today().isoformat(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "torch": runs[0]["torch"],
            "runs": runs,
            "mean": {key: statistics.fmean(run[key] for run in runs) for key in KEYS},
        }
        if not arguments.overrides:
            RESULTS.mkdir(parents=True, exist_ok=True)
            (RESULTS / "first_light.json").write_text(json.dumps(results, indent=2) + "\n")
            shutil.copy(folders[arguments.seeds[0]] / "training.png", RESULTS / "training.png")
    print(markdown(results))


if __name__ == "__main__":
    main()
