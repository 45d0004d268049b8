"""Question: does the policy reach the target p* ∝ p_ref·exp(r/α), where both can be computed exactly?

    python -m benchmarks.study exact                 # every run that is not in runs.jsonl yet, then the report
    python -m benchmarks.study exact --only loss     # the runs of some questions
    python -m benchmarks.study exact --list          # what there is to run, and its time
    python -m benchmarks.study exact --report        # tables and plots from the records alone

A run that is recorded is not run again. A record of other settings is refused.
Results: benchmarks/results/study/exact/ (runs.jsonl, exact.md and a plot a question).
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from benchmarks.harness.extras import missing_package
from benchmarks.study.records import STUDY, Record, duration, listed, load, save, without_record

from .conditions import QUESTIONS, Condition
from .report import write
from .runner import run

SECONDS_A_STEP = 0.2  # of one core, with its share of the round
Task = tuple[Condition, int]


def planned(only: Sequence[str], seeds: Sequence[int]) -> list[Task]:
    """The runs of the chosen questions; a run that questions share is there once. seeds: empty for each question's."""
    chosen = {
        (condition.name, seed): (condition, seed)
        for question in QUESTIONS
        if question.key in only
        for seed in seeds or question.seeds
        for condition in question.conditions
    }
    return list(chosen.values())


def _results(tasks: Sequence[Task], jobs: int) -> Iterator[Record]:
    if jobs == 1:
        yield from (run(condition, seed) for condition, seed in tasks)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(run, condition, seed) for condition, seed in tasks]
        try:
            yield from (future.result() for future in as_completed(futures))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def main(words: Sequence[str]) -> int:
    """Exit code: 0, 2 for a mistake of the user, 130 for an interruption."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study exact",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [question.key for question in QUESTIONS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="QUESTION", help=", ".join(names))
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="in place of each question's own")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--results", type=Path, default=STUDY / "exact", help="folder of records, tables and plots")
    parser.add_argument("--list", action="store_true", help="what there is to run, and its time; runs nothing")
    parser.add_argument("--report", action="store_true", help="tables and plots alone; runs nothing")
    arguments = parser.parse_args(words)
    path = arguments.results / "runs.jsonl"
    try:
        records = load(path)
        tasks = planned(arguments.only, arguments.seeds)
        left = without_record(tasks, records, lambda condition, seed: "random")
        if arguments.list:
            print(*listed(tasks, left), sep="\n")
        if arguments.list or not arguments.report:
            print(duration([condition.steps * SECONDS_A_STEP for condition, _ in left], arguments.jobs), flush=True)
        if arguments.list:
            return 0
        if not arguments.report:
            for done, record in enumerate(_results(left, arguments.jobs), 1):
                records[record["condition"], record["seed"]] = record
                save(path, records.values())
                before, after = (record["curve"][place]["kl_forward"] for place in (0, -1))
                name = f"{record['condition']}, seed {record['seed']}"
                print(f"{done}/{len(left)} {name}: KL {before:.3g} → {after:.3g}, {record['seconds']} s", flush=True)
        write(records, arguments.results)
    except ModuleNotFoundError as error:
        print(f"study exact: {missing_package(error)}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"study exact: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    return 0
