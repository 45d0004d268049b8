"""`dmpo merge`."""

from __future__ import annotations

import argparse

from .commands import Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to merge, and where to."""
    parser.add_argument("source", help="folder of a run, a checkpoint, an adapter or a model; or a hub id")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="absent or empty")
    parser.add_argument("--base", metavar="PATH_OR_HUB_ID", help="base model; default: what the adapter names")
    parser.add_argument("--layout", choices=["llada", "transformers"], help="key names; default: the base's")


def run(arguments: argparse.Namespace) -> None:
    """Write a plain checkpoint."""
    from ..run.early_checks import check_model_path

    check_model_path(arguments.source)

    from ..models.merge import merge

    print(merge(arguments.source, arguments.output, base=arguments.base, layout=arguments.layout))


COMMAND = Command(
    name="merge",
    text="Turn a run, or an adapter and its base, into a plain checkpoint.",
    example="dmpo merge runs/llada-8b-gsm8k --output llada-8b-gsm8k",
    add_arguments=add_arguments,
    run=run,
)
