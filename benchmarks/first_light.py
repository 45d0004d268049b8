"""Question: does `make train` lift an embedded model on held-out puzzles, over several seeds, and in what time?

    python -m benchmarks.first_light --seeds 0 1 2
    python -m benchmarks.first_light --config countdown-tiny --seeds 0 1 2

Runs `dmpo train CONFIG` once a seed (each in its own process, as a user would), and writes the summaries, the mean over
seeds and the plot of the first seed to benchmarks/results/CONFIG/. The Markdown table that it prints is the one in the
README.
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
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

from dmpo.checkpoint_files import embedded_models
from dmpo.config import DMPOConfig
from dmpo.config_files import load_config
from dmpo.tasks import Row, load_task

DEFAULT = "sudoku-tiny"
RESULTS = Path(__file__).parent / "results" / DEFAULT
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
    rows, different = results["runs"][0]["test_rows"], results.get("different_test_rows")
    told = f" {different} of the {rows} puzzles are different." if different not in (None, rows) else ""
    if results.get("jobs", 1) > 1:
        told += f" {results['jobs']} runs side by side: the seconds are those of a busy machine."
    lines += ["", f"{results['cores']} CPU cores, torch {results['torch']}, {results['date']}.{told}"]
    return "\n".join(lines)


def _row(name: str, values: dict[str, Any]) -> str:
    cells = [f"{values[key]:.1%}" for key in KEYS[:-1]] + [f"{values['seconds']:.0f}"]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=DEFAULT, choices=embedded_models(), help=f"default {DEFAULT}")
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs side by side, default 1; their seconds are no figures"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="config keys, for a trial; then nothing is written"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folders = {seed: Path(scratch) / f"seed-{seed}" for seed in arguments.seeds}
        with ThreadPoolExecutor(arguments.jobs) as pool:
            runs = list(
                pool.map(
                    lambda seed: run_seed(arguments.config, seed, folders[seed], arguments.overrides), arguments.seeds
                )
            )
        named = f"--config {arguments.config} " if arguments.config != DEFAULT else ""
        named += f"--jobs {arguments.jobs} " if arguments.jobs > 1 else ""
        results = {
            "command": f"python -m benchmarks.first_light {named}--seeds {' '.join(map(str, arguments.seeds))}",
            "date": date.today().isoformat(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "torch": runs[0]["torch"],
            "jobs": arguments.jobs,
            "different_test_rows": different_rows(arguments.config, runs[0]["test_rows"]),
            "runs": runs,
            "mean": {key: statistics.fmean(run[key] for run in runs) for key in KEYS},
        }
        if not arguments.overrides:
            written = RESULTS.with_name(arguments.config)
            written.mkdir(parents=True, exist_ok=True)
            (written / "first_light.json").write_text(json.dumps(results, indent=2) + "\n")
            shutil.copy(folders[arguments.seeds[0]] / "training.png", written / "training.png")
    print(markdown(results))


if __name__ == "__main__":
    main()
