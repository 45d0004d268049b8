"""The arguments that name a config of a run: `dmpo train`, `dmpo plan` and `dmpo config` take the same."""

from __future__ import annotations

import argparse
from collections.abc import Mapping


def add_run_arguments(parser: argparse.ArgumentParser, *, config_needed: bool = True) -> None:
    """The config and the `key=value` after it."""
    text = "path of a .yaml file, or a shipped name such as sudoku-tiny"
    parser.add_argument("config", nargs=None if config_needed else "?", metavar="CONFIG", help=text)
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="keys that differ from the config, such as seed=1 output_dir=runs/second; --seed 1 means the same",
    )


def keys_of_a_run() -> Mapping[str, type]:
    """The config class of a run."""
    from ..config.keys import DMPOConfig

    return {"Keys of a run, as key=value or --key value, or in the YAML file:": DMPOConfig}
