"""Writes the page: one HTML file with its styles, its scripts, plotly.js and all data, which loads nothing.

Data and plotly.js are compressed and base64, so no text of a completion can end the element it stands in. The scripts
are named by their digests in the page's Content-Security-Policy, so the browser runs no other script, and the policy
forbids the network.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..storage.whole_files import write_text
from .completions import MOST_COMPLETIONS, rollout_gallery, why_no_completions
from .curves import curve_groups
from .evaluation_file import Results, cell_table, read_results, results_gallery
from .held_out import held_out_gallery, why_no_held_out
from .run_files import CONFIG, METRICS, Run, read_run, short_names
from .settings import phase_rows, run_card, settings_tables

log = logging.getLogger("dmpo")

MARK = "<!-- a page of dmpo view -->"  # in the first line: a file with it may be written over
LARGEST = 8_000_000  # bytes of a page
SCRIPTS = ("elements.js", "state.js", "curves.js", "tokens.js", "gallery.js", "tables.js", "page.js")
RESULTS = "results.jsonl"


def write_page(runs: Sequence[Path | str], output: Path | str | None = None) -> Path:
    """Write the page of one run, or of several to compare them, and return its path.

    Args:
        runs: folders of runs; or files, or folders, of results of `dmpo eval`.
        output: where the page goes. Default: `view.html` in the folder of the run, `results.html` beside results.jsonl,
            and `view.html` in the current folder for several.

    Raises:
        ValueError: a path is no run and no file of results; or `output` is a file that is no page.
    """
    path, remarks = write_and_remark([Path(run) for run in runs], None if output is None else Path(output))
    for remark in remarks:
        log.warning("%s", remark)
    return path


def write_and_remark(paths: Sequence[Path], output: Path | None) -> tuple[Path, list[str]]:
    """As `write_page`; the remarks are lines about what the page lacks, and are not logged."""
    if not paths:
        raise ValueError("dmpo view needs the folder of a run, or the results.jsonl of dmpo eval")
    sources = [_source(path) for path in paths]
    kinds = {path.is_dir() for path in sources}
    if len(kinds) > 1:
        raise ValueError("give runs or files of results, not both")
    are_runs = kinds.pop()
    target = output or _default_output(sources, are_runs)
    _check_output(target)
    names = short_names(sources)
    if are_runs:
        runs = [read_run(path, name) for path, name in zip(sources, names, strict=True)]
        text, remarks = _fitting(lambda most: page_of_runs(runs, most))
    else:
        results = [read_results(path, name) for path, name in zip(sources, names, strict=True)]
        text, remarks = _fitting(lambda most: page_of_results(results, most))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, text)
    return target, remarks


def page_of_runs(runs: Sequence[Run], most: int) -> tuple[dict[str, Any], list[str]]:
    """The content of the page for runs with about `most` completions at most, and remarks about what it lacks."""
    absent = [reason for run in runs if (reason := why_no_completions(run))]
    remarks = [complaint for run in runs for complaint in run.complaints] + absent
    content = {
        "kind": "runs",
        "title": _joined([run.name for run in runs], "runs"),
        "sources": [run_card(run) for run in runs],
        "curves": curve_groups(runs),
        "galleries": [
            {**rollout_gallery(runs, most), "id": "completions", "absent": absent},
            {**held_out_gallery(runs, most), "id": "held-out", "absent": why_no_held_out(runs)},
        ],
        "settings": settings_tables(runs),
        "phases": phase_rows(runs),
        "remarks": remarks,
    }
    return content, remarks


def page_of_results(results: Sequence[Results], most: int) -> tuple[dict[str, Any], list[str]]:
    """The content of the page for results of evaluations, and remarks about what it lacks."""
    remarks = [complaint for file in results for complaint in file.complaints]
    content = {
        "kind": "results",
        "title": _joined([file.name for file in results], "evaluations"),
        "sources": [{"name": file.name, "path": str(file.path)} for file in results],
        "cells": cell_table(results),
        "galleries": [{**results_gallery(results, most), "id": "completions", "absent": []}],
        "remarks": remarks,
    }
    return content, remarks


def render(content: dict[str, Any]) -> str:
    """The page as text; `content` goes into it as compressed JSON."""
    plotly, digest = _plotly()
    script = _script()
    policy = [
        "default-src 'none'",
        f"script-src '{_digest(script)}' '{digest}'",
        "style-src 'unsafe-inline'",  # plotly.js styles its charts itself
        "img-src data: blob:",  # a chart saved as a picture
        "base-uri 'none'",
        "form-action 'none'",
    ]
    values = {
        "mark": MARK,
        "policy": "; ".join(policy),
        "title": html.escape(content["title"]),
        "style": _asset("page.css"),
        "content": _packed(json.dumps({**content, "written": time.strftime("%Y-%m-%d %H:%M:%S")}, allow_nan=False)),
        "plotly": plotly,
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], _asset("page.html"))


def _fitting(build: Callable[[int], tuple[dict[str, Any], list[str]]]) -> tuple[str, list[str]]:
    """The page with as many completions as fit into `LARGEST`."""
    most = MOST_COMPLETIONS
    while True:
        content, remarks = build(most)
        text = render(content)
        if len(text) <= LARGEST or most <= 16:
            return text, remarks
        most //= 2


def _source(path: Path) -> Path:
    """The folder of a run, or a file of results; for the output_dir of an evaluation, the file in it."""
    is_run = any((path / name).exists() for name in (CONFIG, METRICS))
    if path.is_dir() and not is_run and (path / RESULTS).is_file():
        return path / RESULTS
    if path.is_file() and path.suffix != ".jsonl":
        raise ValueError(f"{path} is neither the folder of a run nor a file .jsonl of dmpo eval's results")
    if not path.exists():
        raise ValueError(
            f"no such run or file: {path}; give the output_dir of a run, or the results.jsonl of dmpo eval"
        )
    return path


def _default_output(sources: Sequence[Path], are_runs: bool) -> Path:
    if len(sources) > 1:
        return Path("view.html")
    return sources[0] / "view.html" if are_runs else sources[0].with_suffix(".html")


def _check_output(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"--output must be a file, got the folder {path}; give for example {path / 'view.html'}")
    if path.exists():
        with path.open("rb") as file:
            if MARK.encode() not in file.read(200):
                raise ValueError(f"{path} exists and is no page of dmpo view; give another --output, or move it away")


def _joined(names: Sequence[str], kind: str) -> str:
    return " and ".join(names) if len(names) < 4 else f"{len(names)} {kind}"


@cache
def _script() -> str:
    return "\n".join(_asset(name) for name in SCRIPTS)


@cache
def _plotly() -> tuple[str, str]:
    """plotly.js, packed, and the digest of its text."""
    from plotly.offline import get_plotlyjs

    source = without_wrapper(get_plotlyjs())
    return _packed(source), _digest(source)


def without_wrapper(source: str) -> str:
    """plotly.js without the function that chooses between module systems, if the text has the usual form.

    A browser reads a function that it is given twice, and this one contains all of plotly.js: 0.4 s of 1.3 s.
    """
    whole = re.fullmatch(
        r"(/\*.*?\*/).*?(\"use strict\";var Plotly=.*)window\.Plotly = Plotly;\s*return Plotly;\s*\}\)\);?\s*",
        source,
        re.DOTALL,
    )
    return f"{whole[1]}\n{whole[2]}" if whole else source


def _asset(name: str) -> str:
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=9, mtime=0)).decode()


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
