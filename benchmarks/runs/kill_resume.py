"""Question: does a run that is killed again and again, at random moments, equal the run that never stopped?

    python -m benchmarks.runs.kill_resume --kills 20

Runs `dmpo train sudoku-tiny` small: once whole, then with SIGKILL at random moments, each time started again by the
same command, which ends in resume=true. Every second kill waits until a checkpoint is being written. A run that comes
to its end before all kills are spent is compared, and the next begins. Compared are the bytes of metrics.jsonl,
completions.jsonl and of the last weights, and the accuracies of summary.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

from dmpo.cli import main as dmpo
from dmpo.storage.checkpoints import list_checkpoints
from dmpo.storage.whole_files import ASIDE, file_digest

STEPS = 12
SIZES = {"num_prompts": 8, "num_generations": 4, "gradient_steps": 2, "micro_batch_size": 64, "eval_prompts": 16}
PACE = {"max_steps": STEPS, "save_steps": 3, "eval_steps": 6, "buffer_rounds": 2, "reference_refresh_steps": 5}
SMALL = [f"{key}={value}" for key, value in {**SIZES, **PACE, "resume": "true"}.items()]
FILES = ("metrics.jsonl", "completions.jsonl", f"checkpoints/step-{STEPS}/model/model.safetensors")


def run(folder: Path, overrides: list[str]) -> None:
    """What `dmpo train` does in a shell, its output put aside."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    sys.exit(dmpo(["train", "sudoku-tiny", f"output_dir={folder}", *SMALL, *overrides]))


def start(folder: Path, overrides: list[str]) -> BaseProcess:
    """A process forked from one that has imported everything; it has no thread and has used no model."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["dmpo.trainer"])
    process = context.Process(target=run, args=(folder, overrides))
    process.start()
    return process


def is_writing(folder: Path) -> bool:
    return any((folder / "checkpoints").glob(f"{ASIDE}step-*"))


def steps_done(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill(process: BaseProcess, folder: Path, draw: random.Random, step_seconds: float, *, in_checkpoint: bool) -> None:
    """At a random moment after one of the next steps, or of the next checkpoint; at times too late."""
    checkpoints, config = list_checkpoints(folder / "checkpoints"), folder / "config.yaml"
    done = int(checkpoints[-1].name.removeprefix("step-")) if checkpoints else 0
    if done + PACE["save_steps"] >= STEPS and draw.random() < 0.5:
        return  # or the run would never get past its last checkpoint
    until, moment = min(done + draw.randrange(6), STEPS - 1), draw.random()
    before = config.stat().st_mtime_ns if config.exists() else 0
    while process.is_alive() and (not config.exists() or config.stat().st_mtime_ns == before):
        time.sleep(0.001)  # until this process has begun, and forgotten the lines after its checkpoint
    while process.is_alive() and steps_done(folder) < until:
        time.sleep(0.001)
    while process.is_alive() and in_checkpoint and not is_writing(folder):
        time.sleep(0.0002)
    time.sleep(moment * (0.02 if in_checkpoint else step_seconds))
    process.kill()


def result(folder: Path) -> dict[str, object]:
    """All of a finished run that must not depend on what happened to it."""
    summary = json.loads((folder / "summary.json").read_text())
    accuracies = {key: value for key, value in summary.items() if "accuracy" in key}
    return accuracies | {name: file_digest(folder / name) for name in FILES}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config keys")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        process = start(whole, arguments.overrides)
        process.join()
        if process.exitcode:
            print(f"the undisturbed run failed with status {process.exitcode}")
            return 1
        timings = [json.loads(line) for line in (whole / "timings.jsonl").read_text().splitlines()]
        step_seconds = sum(sum(line.values()) - line["step"] for line in timings) / STEPS
        expected, runs, kills, same, in_checkpoint = result(whole), 0, 0, 0, 0
        while kills < arguments.kills or process.exitcode:
            folder = Path(scratch) / f"killed-{runs}"
            process = start(folder, arguments.overrides)
            if kills < arguments.kills:
                kill(process, folder, draw, step_seconds, in_checkpoint=kills % 2 == 1)
            process.join()
            if process.exitcode == 0:
                runs += 1
                same += result(folder) == expected
                print(f"run {runs}: {'identical' if same == runs else 'NOT IDENTICAL'}", flush=True)
            elif process.exitcode == -9:
                kills += 1
                in_checkpoint += is_writing(folder)
                saved = ", ".join(path.name for path in list_checkpoints(folder / "checkpoints")) or "none"
                print(f"kill {kills}: after {steps_done(folder)} steps, checkpoints {saved}", flush=True)
            else:
                print(f"a resumed run failed with status {process.exitcode}")
                return 1
    verdict = "identical" if same == runs else "NOT IDENTICAL"
    moments = f"{kills} random kills, {in_checkpoint} of them amid a checkpoint"
    print(f"resume {verdict} over {moments}; {runs} runs brought to an end")
    return 0 if same == runs else 1


if __name__ == "__main__":
    sys.exit(main())
