"""The command line of `python -m benchmarks.study decoders`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.provenance import RESULTS
from benchmarks.harness.setting import Load, Setting, about, header
from dmpo import DMPOConfig
from dmpo.config.files import load_config
from dmpo.storage.whole_files import write_text

from . import report
from .curves import Point, points
from .measure import Record, Subject, measure, of_different_rows

CONFIGS = ("sudoku-tiny", "countdown-tiny")
FOLDER = RESULTS / "study" / "decoders"
SECONDS_A_ROW = 0.012  # of one CPU thread and one embedded model, decoding at a batch of 16
_SUBJECTS: list[Subject] = []  # of this process
Key = tuple[str, str, str, float, int, float]  # task, model, curve, value, batch, temperature


def key_of(record: Record) -> Key:
    """What makes a record the same measurement as another."""
    return tuple(record[name] for name in ("task", "model", "curve", "value", "batch", "temperature"))


def load(path: Path) -> dict[Key, Record]:
    """The records of a file, none where there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines]
    return {key_of(record): record for record in records}


def main(words: list[str]) -> int:
    """Exit code: 0, or 2 for arguments with which nothing can be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study decoders",
        description="Measure accuracy against forwards for every decoder; what is recorded is not measured again.",
    )
    parser.add_argument("--configs", nargs="+", default=list(CONFIGS), help="shipped names or YAML files of runs")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="keys of these configs, e.g. model=DIR"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rows", type=int, default=512, help="held-out rows at most; default 512")
    parser.add_argument("--alone", type=int, default=32, help="of these so many also one row a batch; default 32")
    parser.add_argument("--scored", type=int, default=128, help="rows of rollout_mismatch; default 128")
    parser.add_argument("--batch", type=int, default=16, help="rows decoded together; default 16")
    parser.add_argument("--workers", type=int, default=2, help="points at a time, one thread each; default 2")
    parser.add_argument("--results", type=Path, default=FOLDER)
    parser.add_argument("--again", action="store_true", help="measure all points anew")
    parser.add_argument("--report", action="store_true", help="the report alone")
    options = parser.parse_args(words)
    if min(options.rows, options.alone, options.scored, options.workers) < 1 or options.batch < 2:
        parser.error("--rows, --alone, --scored and --workers must be at least 1, --batch at least 2")
    try:
        configs = [load_config(DMPOConfig, name, list(options.set)) for name in options.configs]
    except (ValueError, TypeError) as error:
        print(f"study: {error}", file=sys.stderr)
        return 2
    subjects = {
        (config.task, config.model): Subject(config, options.device, options.rows, options.alone, options.scored)
        for config in configs
    }
    path = options.results / "records.jsonl"
    if options.again and not options.report:
        path.unlink(missing_ok=True)
    load_seen = Load()
    try:
        _different(load(path), subjects)  # before any work
        if not options.report:
            _measure_all(configs, path, options)
        records = _different(load(path), subjects)
    except ValueError as error:
        print(f"study: {error}", file=sys.stderr)
        return 2
    if not options.report:
        setting = Setting(device=options.device, threads=1)
        made = about({"header": header(setting, "python -m benchmarks.study decoders", load_seen)})
        write_text(options.results / "made.md", made + "\n")
    report.write(records, (options.results / "made.md").read_text().strip(), options.results)
    print(f"report: {options.results / 'decoders.md'}")
    return 0


def _different(records: Mapping[Key, Record], subjects: Mapping[tuple[str, str], Subject]) -> list[Record]:
    """The records of these models, with the verdicts of different rows alone."""
    return [
        of_different_rows(record, subjects[key])
        for record in records.values()
        if (key := (record["task"], record["model"])) in subjects
    ]


def _measure_all(configs: list[DMPOConfig], path: Path, options: argparse.Namespace) -> None:
    """Measure what is not recorded. A record is on disk as soon as it is whole; at the end all are in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = load(path)
    jobs = [(number, one) for number, config in enumerate(configs) for one in _missing(config, known, options)]
    text = f"{len(jobs)} measurements to do"
    if options.device == "cpu":
        rows = sum(options.alone * 4 if batch == 1 else options.rows for _, (_, batch, _) in jobs)
        text += f", about {rows * SECONDS_A_ROW / 60 / options.workers:.0f} minutes on a quiet CPU"
    print(text, flush=True)
    sizes = (options.device, options.rows, options.alone, options.scored)
    for done, record in enumerate(_records(configs, jobs, sizes, options.workers), 1):
        known[key_of(record)] = record
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        share = record["solved"].count("1") / len(record["solved"])
        where = f"batch {record['batch']}, T = {record['temperature']:g}"
        print(
            f"{done}/{len(jobs)} {record['task']}, {record['curve']} {record['value']:g}, {where}: {share:.1%}",
            flush=True,
        )
    order = {
        (config.task, config.model, point.curve, point.value, batch, temperature): number
        for config in configs
        for number, (point, batch, temperature) in enumerate(_missing(config, {}, options))
    }
    ordered = sorted(known.values(), key=lambda record: (record["task"], order.get(key_of(record), -1)))
    write_text(path, "".join(json.dumps(record) + "\n" for record in ordered))


def _records(configs: list[DMPOConfig], jobs: list[Any], sizes: tuple[Any, ...], workers: int) -> Iterator[Record]:
    """The records of all jobs, in the order in which they are ready."""
    if workers == 1:
        _begin(configs, sizes)
        yield from map(_measure_one, jobs)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (configs, sizes)) as pool:
        for future in as_completed([pool.submit(_measure_one, job) for job in jobs]):
            yield future.result()


def _missing(
    config: DMPOConfig, known: dict[Key, Record], options: argparse.Namespace
) -> list[tuple[Point, int, float]]:
    """What is not recorded: greedy in batches and alone, and drawn as in training."""
    wanted = [
        (point, batch, temperature)
        for point in points(config)
        for batch, temperature in ((options.batch, 0.0), (1, 0.0), (options.batch, config.temperature))
    ]
    return [
        one for one in wanted if (config.task, config.model, one[0].curve, one[0].value, one[1], one[2]) not in known
    ]


def _begin(configs: list[DMPOConfig], sizes: tuple[Any, ...]) -> None:
    """Make this process one that measures: one thread, and the subjects, each loaded when it is first used."""
    if sizes[0] == "cpu":
        torch.set_num_threads(1)
    _SUBJECTS[:] = [Subject(config, *sizes) for config in configs]


def _measure_one(job: Any) -> Record:
    """The record of one job: number of the config, point, batch and temperature."""
    number, (point, batch, temperature) = job
    return measure(_SUBJECTS[number], point, batch, temperature)
