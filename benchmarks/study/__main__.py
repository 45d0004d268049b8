"""Question: do the paper's claims hold on the embedded tasks, and where does DMPO not win?

    python -m benchmarks.study                       # every run that is not in runs.jsonl yet, then the report
    python -m benchmarks.study --only loss reuse     # the runs of some questions
    python -m benchmarks.study --list                # what there is to run, what is done, and how long the rest takes
    python -m benchmarks.study --report              # tables, conclusions and plots from the records alone
    python -m benchmarks.study decoders              # another study: accuracy against forwards, for every decoder
    python -m benchmarks.study exact                 # another study: does a policy reach a target that is known?
    python -m benchmarks.study views                 # another study: which views know log p best at equal forwards?

A run that is recorded is not run again; one that was killed is, from its start. A record of other settings is refused.
Results: benchmarks/results/study/ (runs.jsonl, study.md and a plot a question).
"""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path

from benchmarks.harness.extras import missing_package
from benchmarks.harness.provenance import ROOT
from dmpo.storage.lock import FolderLock

from .conditions import SCAN_SEED, SECONDS, SEEDS, Condition, conditions, scan_conditions
from .decoders.command import main as decoders_main
from .exact.command import main as exact_main
from .questions import QUESTIONS
from .records import STUDY, Key, Record, duration, listed, load, save, without_record
from .report import write
from .runner import keys, model_digest, run
from .views.command import main as views_main

SCRATCH = ROOT / "runs" / "study"
Task = tuple[Condition, int]


def planned(only: list[str], seeds: list[int]) -> list[Task]:
    """What the chosen questions need: the scans for learning rates, then every condition once a seed."""
    chosen = [question for question in QUESTIONS if question.key in only]
    names = {name for question in chosen for name in question.conditions}
    wanted = [condition for condition in conditions().values() if condition.name in names]
    pairs = {(c.task, c.objective) for c in wanted} | {pair for question in chosen for pair in question.scanned_only}
    scan = [condition for condition in scan_conditions().values() if (condition.task, condition.objective) in pairs]
    return keys(scan, [SCAN_SEED]) + keys(wanted, seeds)


def missing(tasks: list[Task], records: dict[Key, Record]) -> list[Task]:
    """Those without a record.

    Raises:
        ValueError: a record is of other settings.
    """
    return without_record(tasks, records, lambda condition, seed: model_digest(condition.config(seed, "unused").model))


def carry_out(tasks: list[Task], path: Path, scratch: Path, workers: int) -> list[str]:
    """Run all, writing each record as it comes; what failed, one line each.

    Raises:
        ValueError: another study runs in `scratch`.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(scratch)
    records, failures, total = load(path), [], len(tasks)
    try:
        for done, (name, result) in enumerate(_results(tasks, scratch, workers), 1):
            if isinstance(result, BaseException):
                failures.append(f"{name}: {type(result).__name__}: {result}")
                print(f"{done}/{total} FAILED {failures[-1]}", flush=True)
                continue
            records[result["condition"], result["seed"]] = result
            save(path, records.values())
            final = result["test"][-1]
            share = final["sampled"] / final["rows"]
            print(f"{done}/{total} {name}: {share:.1%} sampled, {result['seconds']} s", flush=True)
    finally:
        lock.release()
    return failures


def _results(tasks: list[Task], scratch: Path, workers: int) -> Iterator[tuple[str, Record | BaseException]]:
    if workers == 1:
        for condition, seed in tasks:
            try:
                yield f"{condition.name}, seed {seed}", run(condition, seed, scratch)
            except Exception as error:
                yield f"{condition.name}, seed {seed}", error
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    try:
        waiting: dict[Future[Record], str] = {
            pool.submit(run, condition, seed, scratch): f"{condition.name}, seed {seed}" for condition, seed in tasks
        }
        for future in as_completed(waiting):
            yield waiting.pop(future), future.exception() or future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in multiprocessing.active_children():
            worker.kill()  # a run is started anew; it has nothing to save


def main() -> int:
    if sys.argv[1:2] == ["decoders"]:
        return decoders_main(sys.argv[2:])
    if sys.argv[1:2] == ["exact"]:
        return exact_main(sys.argv[2:])
    if sys.argv[1:2] == ["views"]:
        return views_main(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [question.key for question in QUESTIONS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="QUESTION", help=", ".join(names))
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=list(SEEDS), help="none: the scan for learning rates alone"
    )
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--results", type=Path, default=STUDY, help="folder of records, tables and plots")
    parser.add_argument("--list", action="store_true", help="what there is to run; runs nothing")
    parser.add_argument("--report", action="store_true", help="tables and plots alone; runs nothing")
    arguments = parser.parse_args()
    path = arguments.results / "runs.jsonl"
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the workers end with this process
    failures: list[str] = []
    try:
        tasks = planned(arguments.only, arguments.seeds)
        left = missing(tasks, load(path))
        time = duration([SECONDS[condition.task] for condition, _ in left], arguments.workers)
        if arguments.list:
            print(*listed(tasks, left), sep="\n")
            print(f"{len(tasks)} runs; {time}")
            return 0
        if not arguments.report:
            print(time, flush=True)
            failures = carry_out(left, path, SCRATCH, arguments.workers)
        write(load(path), arguments.results)
    except ModuleNotFoundError as error:
        print(f"study: {missing_package(error)}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"study: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    print(*failures, sep="\n", file=sys.stderr, end="\n" if failures else "")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
