"""Measure this project on a GPU in eight minutes at most, or rehearse the same on a CPU.

    python -m benchmarks.gpu [PART ...] [--rehearse] [--output FOLDER] [--device cuda|cpu] [--seconds N] [--again]
    python -m benchmarks.gpu --report FOLDER

docs/gpu.md says what each part answers, and what to look at first.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.gpu import report
from benchmarks.gpu.parts import PARTS, TOTAL_SECONDS, Part, part_named
from benchmarks.gpu.processes import ROOT, code_digest, commit, is_complete, probe_device, run_part

REHEARSAL_SECONDS = 600  # a busy machine takes its time; the parts are small
REHEARSED_TOGETHER = 2  # no figure of a rehearsal counts


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0, or 1 where a check failed or a part did not end, or 2 where there is no device."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [part.name for part in PARTS]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default: all, {', '.join(names)}")
    parser.add_argument("--rehearse", action="store_true", help="small sizes on a CPU, to see that everything runs")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="of the records and the report")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda, or cpu in a rehearsal")
    parser.add_argument("--seconds", type=float, help=f"for all parts together, default {TOTAL_SECONDS}")
    parser.add_argument("--again", action="store_true", help="also run parts whose records are complete")
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="only write the report of that folder's records")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.parts if name not in names]:
        parser.error(f"unknown part {', '.join(unknown)}; want {', '.join(names)}")
    if options.seconds is not None and not options.seconds > 0:
        parser.error(f"--seconds must be greater than 0, got {options.seconds:g}")
    if options.report:
        if not list(options.report.glob("*.jsonl")):
            parser.error(f"--report: {options.report} holds no records (*.jsonl)")
        return report.write(options.report, options.output)
    kind = options.device or ("cpu" if options.rehearse else "cuda")
    if kind == "cpu" and not options.rehearse:
        parser.error("--device cpu takes the small sizes alone; add --rehearse")
    return run([part_named(name) for name in options.parts] or list(PARTS), kind, options)


def run(parts: list[Part], kind: str, options: argparse.Namespace) -> int:
    """Run what is not complete yet, in order, and write the report after each part."""
    end = time.monotonic() + (options.seconds or (REHEARSAL_SECONDS if options.rehearse else TOTAL_SECONDS))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the running part is ended, too
    device = probe_device(kind)
    key = {"code": code_digest(), "commit": commit(), "rehearse": options.rehearse, **device}
    for changing in ("free_gb", "slug"):
        key.pop(changing, None)
    print(f"device: {device['device']}; driver {device['driver']}; commit {key['commit']}", flush=True)
    folder = options.output or ROOT / "build" / ("gpu-rehearsal" if options.rehearse else f"gpu/{device['slug']}")
    folder.mkdir(parents=True, exist_ok=True)

    def take(part: Part) -> None:
        if is_complete(folder / f"{part.name}.jsonl", key) and not options.again:
            print(f"---- {part.name}: complete already (--again runs it once more)", flush=True)
            return
        left = end - time.monotonic()
        run_part(part, device, key, folder, min(left, REHEARSAL_SECONDS if options.rehearse else part.seconds))
        report.write(folder, options.output)

    with ThreadPoolExecutor(REHEARSED_TOGETHER if options.rehearse else 1) as pool:
        list(pool.map(take, parts))
    return report.write(folder, options.output)


if __name__ == "__main__":
    sys.exit(main())
