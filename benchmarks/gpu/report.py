"""What did the parts say? Makes results.json and results.md of a folder of records, failed checks first.

results.json: {"header": {...}, "failed": [...], "parts": {NAME: {"question", "state", "reason", "seconds", "date",
"seed", "same_key", "records": [{"name", "ok", "at", ...}]}}}. A state is complete, skipped, stopped or not run.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.records import END, START, read_records, short
from benchmarks.harness.markdown import table
from benchmarks.harness.provenance import ROOT

UNITS = {"us": "µs", "ms": "ms", "gb": "GB", "tb_per_s": "TB/s", "tflops": "TFLOP/s", "tokens_per_s": "tokens/s"}
LONGEST_CELL = 120
FAILED_CODE, NO_DEVICE_CODE = 1, 2


def collect(folder: Path) -> dict[str, Any]:
    """Everything that the folder's records say."""
    parts = {part.name: of_part(part, folder) for part in PARTS}
    started = [part for part in parts.values() if part["key"]]
    newest = max(started, key=lambda part: part["date"], default=None)
    header = {"date": newest["date"], **newest["key"]} if newest else {}
    for part in parts.values():
        part["same_key"] = part.pop("key") == (newest and {k: v for k, v in header.items() if k != "date"})
    failed = [
        {"part": name, "check": record["name"], **{k: v for k, v in record.items() if k not in ("name", "ok", "at")}}
        for name, part in parts.items()
        for record in part["records"]
        if record.get("ok") is False
    ]
    failed += [{"part": name, "fault": part["reason"]} for name, part in parts.items() if part["state"] == "stopped"]
    return {"header": header, "failed": failed, "parts": parts}


def of_part(part: Part, folder: Path) -> dict[str, Any]:
    records = read_records(folder / f"{part.name}.jsonl")
    first = records[0] if records and records[0]["name"] == START else {}
    last = records[-1] if records and records[-1]["name"] == END else {}
    state = "not run" if not records else "stopped" if not last or last.get("fault") else "complete"
    return {
        "question": question(part),
        "state": "skipped" if last.get("skipped") else state,
        "reason": last.get("skipped") or last.get("fault") or ("its process is gone" if state == "stopped" else None),
        "seconds": last.get("seconds"),
        "date": first.get("date", ""),
        "seed": first.get("seed"),
        "key": first.get("key"),
        "records": [record for record in records if record["name"] not in (START, END)],
    }


def question(part: Part) -> str:
    """The first paragraph of the module's docstring, read without importing the module."""
    file = ROOT / Path(*part.module.split(".")).with_suffix(".py")
    text = (ast.get_docstring(ast.parse(file.read_text())) or "") if file.is_file() else ""
    return " ".join(text.split("\n\n")[0].split())


def markdown(results: dict[str, Any]) -> str:
    """The report for a reader who has not seen the code."""
    header, parts = results["header"], results["parts"]
    checks = sum(record.get("ok") is not None for part in parts.values() for record in part["records"])
    lines = [f"# dmpo on {header.get('device', 'no device')}", "", *about(header), ""]
    lines += [f"## {len(results['failed'])} failed", ""] if results["failed"] else []
    for each in results["failed"]:
        values = ", ".join(f"{key} {shown(value)}" for key, value in each.items() if key not in ("part", "check"))
        lines.append(f"- **{each['part']}**: {each.get('check', 'the part itself')}: {values}")
    if not results["failed"]:
        lines.append(f"No check failed, of {checks}.")
    rows = [
        [name, part["question"], state_of(part), f"{part['seconds']:.0f}" if part["seconds"] else "–"]
        for name, part in parts.items()
    ]
    lines += ["", "## Parts", "", table(["part", "question", "state", "seconds"], rows)]
    for name, part in parts.items():
        if part["records"]:
            lines += ["", f"## {name}", "", part["question"], ""]
            lines += [f"{text}\n" for text in tables(part["records"])]
    return re.sub("\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def about(header: dict[str, Any]) -> Iterator[str]:
    """Device, software, commit and date, a sentence each."""
    if not header:
        yield "No part has run."
        return
    if header.get("rehearse"):
        yield "**A rehearsal: small sizes, only to see that everything runs. No figure here is a measurement.**"
        yield ""
    if header.get("problem"):
        yield f"**There is no device to measure: {header['problem']}.**"
        yield ""
    versions = {name: version for name, version in header.get("versions", {}).items() if version}
    if header.get("capability"):
        major, minor = header["capability"]
        yield f"Compute capability {major}.{minor}, {header['total_gb']:.0f} GB, driver {header['driver']}.  "
    yield f"{', '.join(f'{name} {version}' for name, version in versions.items())}.  "
    yield f"Extension: {header.get('extension', 'unknown')}.  "
    yield f"Launch parameters: {header.get('launch_parameters', 'unknown')}.  "
    yield f"Commit {header['commit'] or 'unknown'}, files {header['code']}. {header['date']}.  "
    yield "Host times are of this one machine, and differ by up to 2 times between parts of one run."


def state_of(part: dict[str, Any]) -> str:
    checks = [record["ok"] for record in part["records"] if record.get("ok") is not None]
    text = part["state"]
    if part["reason"]:
        text += f": {part['reason']}"
    elif checks:
        text += f", {len(checks) - checks.count(False)} of {len(checks)} checks passed"
    return text if part["same_key"] or part["state"] == "not run" else f"{text} (of other files or another device)"


def tables(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A table for all records that have the same keys."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for record in records:
        keys = tuple(key for key in record if key not in ("name", "ok", "at"))
        groups.setdefault(keys, []).append(record)
    marks = {True: "ok", False: "**FAIL**", None: ""}
    for keys, rows in groups.items():
        columns = [key for key in keys if any(row[key] is not None for row in rows)]
        checked = any(row["ok"] is not None for row in rows)
        yield table(
            ["", *(["check"] if checked else []), *map(heading, columns)],
            [
                [row["name"], *([marks[row["ok"]]] if checked else []), *(shown(row[key]) for key in columns)]
                for row in rows
            ],
        )


def heading(key: str) -> str:
    """A key as the head of a column, its unit apart."""
    for unit, text in UNITS.items():
        if key == unit or key.endswith(f"_{unit}"):
            return f"{key.removesuffix(unit).rstrip('_').replace('_', ' ')}, {text}".removeprefix(", ")
    return key.replace("_", " ")


def shown(value: Any) -> str:
    text = "–" if value is None or value == [] else short(value)
    return text if len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]}… (whole in the JSON file)"


def write(folder: Path, *also: Path) -> int:
    """Write FOLDER/results.json and .md, and the same to each of `also` (a path without its ending); the exit code."""
    results = collect(folder)
    for stem in (folder / "results", *also):
        stem.parent.mkdir(parents=True, exist_ok=True)
        for ending, text in (("json", json.dumps(results, indent=1) + "\n"), ("md", markdown(results))):
            scratch = stem.with_name(f".{stem.name}.{ending}")
            scratch.write_text(text, encoding="utf-8")
            scratch.replace(stem.with_name(f"{stem.name}.{ending}"))
    if results["header"].get("problem"):
        return NO_DEVICE_CODE
    return FAILED_CODE if results["failed"] else 0
