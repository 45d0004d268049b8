"""Measure this project on a GPU in eight minutes at most, or rehearse the same on a CPU.

    python -m benchmarks.gpu [PART ...] [--rehearse] [--output FOLDER] [--device cuda|cpu] [--seconds N] [--again]
    python -m benchmarks.gpu --report FOLDER

docs/gpu.md lists the question of each part, and what to read first.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType

from benchmarks.gpu import report
from benchmarks.gpu.parts import PARTS, TOTAL_SECONDS, Part, part_named
from benchmarks.gpu.processes import LEAVING, Order, code_digest, commit, end_all, is_complete, probe_device, run_part
from benchmarks.gpu.records import read_records
from benchmarks.harness.provenance import RESULTS, ROOT

REHEARSAL_SECONDS = 900  # a busy machine is slow; the parts are small
REHEARSED_TOGETHER = 2  # a rehearsal's figures do not count


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0, or 1 if a check failed or a part did not end, or 2 if there is no device."""
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default: all, {', '.join(names)}")
    parser.add_argument("--rehearse", action="store_true", help="small sizes on a CPU, to see that everything runs")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="of the records and the report")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda, or cpu in a rehearsal")
    parser.add_argument("--seconds", type=float, metavar="N", help=f"for all parts together, default {TOTAL_SECONDS}")
    parser.add_argument("--again", action="store_true", help="also run parts whose records are complete")
    parser.add_argument("--seed", type=int, metavar="N", help="of the random inputs; default: a new one")
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="only write the report of that folder's records")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.parts if name not in names]:
        parser.error(f"unknown part {', '.join(unknown)}; want {', '.join(names)}")
    if options.seconds is not None and not options.seconds > 0:
        parser.error(f"--seconds must be greater than 0, got {options.seconds:g}")
    if options.seed is not None and not 0 <= options.seed < 2**31:
        parser.error(f"--seed must be in [0, {2**31}), got {options.seed}")
    if options.report:
        return write_report(parser, options.report, options.output)
    kind = options.device or ("cpu" if options.rehearse else "cuda")
    if kind == "cpu" and not options.rehearse:
        parser.error("--device cpu takes the small sizes alone; add --rehearse")
    return run([part_named(name) for name in options.parts] or list(PARTS), kind, options)


def write_report(parser: argparse.ArgumentParser, folder: Path, output: Path | None) -> int:
    """The report of records from another machine."""
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        parser.error(f"--report: {folder} holds no records (*.jsonl)")
    key = (read_records(files[0]) or [{}])[0].get("key", {})
    also = [output / "results"] if output else shipped(key.get("slug"), key.get("rehearse", True))
    return report.write(folder, *also)


def shipped(slug: str | None, rehearse: bool) -> list[Path]:
    """The file of measured results in the repository, if any: none for a rehearsal or without a device."""
    return [] if rehearse or slug in (None, "no-device") else [RESULTS / slug / "gpu"]


def run(parts: list[Part], kind: str, options: argparse.Namespace) -> int:
    """Run the parts that are not complete yet, in order, and write the report after each part."""
    begun = time.monotonic()
    total = options.seconds or (REHEARSAL_SECONDS if options.rehearse else TOTAL_SECONDS)
    handlers = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    device = probe_device(kind)
    key = {"code": code_digest(), "commit": commit(), "rehearse": options.rehearse, **device}
    free_gb = key.pop("free_gb", None)  # differs from run to run
    print(f"device: {device['device']}; driver {device['driver']}; commit {key['commit']}", flush=True)
    folder = options.output or ROOT / "build" / ("gpu-rehearsal" if options.rehearse else f"gpu/{device['slug']}")
    folder.mkdir(parents=True, exist_ok=True)
    also = [] if options.output else shipped(device["slug"], options.rehearse)
    seed = time.time_ns() % 2**31 if options.seed is None else options.seed
    writing = threading.Lock()
    LEAVING.clear()

    def take(part: Part) -> None:
        if LEAVING.is_set():
            return
        records = folder / f"{part.name}.jsonl"
        if is_complete(records, key) and not options.again:
            print(f"---- {part.name}: complete already (--again runs it once more)", flush=True)
            return
        limit = min(REHEARSAL_SECONDS if options.rehearse else part.seconds, begun + total - time.monotonic())
        date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        run_part(Order(part, records, key, free_gb, seed, date, limit))
        with writing:
            report.write(folder, *also)

    pool = ThreadPoolExecutor(REHEARSED_TOGETHER if options.rehearse else 1)
    try:
        list(pool.map(take, parts))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        end_all()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    code = report.write(folder, *also)
    print(f"report: {folder / 'results.md'}" + "".join(f", {stem}.md" for stem in also), flush=True)
    if device["problem"]:
        print(f"no device: {device['problem']}\nOn a CPU: python -m benchmarks.gpu --rehearse", file=sys.stderr)
    return code


def leave(number: int, _: FrameType | None) -> None:
    """End the running parts with the command; their records stay."""
    end_all()
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
