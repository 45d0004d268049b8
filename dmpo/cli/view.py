"""`dmpo view`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .commands import Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to show, and where to."""
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folders of runs, or results.jsonl of an evaluation"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="the page; default: view.html in the run's folder")
    parser.add_argument("--watch", action="store_true", help="write the page again whenever a run has a new step")


def run(arguments: argparse.Namespace) -> None:
    """Write a page and print its path."""
    from ..view import watch_runs, write_page

    if arguments.watch:
        watch_runs(arguments.runs, arguments.output, written=lambda page: print(page, flush=True))
    else:
        print(write_page(arguments.runs, arguments.output))


COMMAND = Command(
    name="view",
    text="Write one HTML file that shows a run, compares several, or shows the results of an evaluation.",
    example="dmpo view runs/sudoku-tiny",
    add_arguments=add_arguments,
    run=run,
)
