"""`dmpo config`."""

from __future__ import annotations

import argparse

from .commands import Command
from .run_keys import add_run_arguments, keys_of_a_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A config, or none."""
    add_run_arguments(parser, config_needed=False)


def run(arguments: argparse.Namespace) -> None:
    """Print a commented YAML."""
    from ..config.commented import commented_yaml
    from ..config.files import config_values, load_config, read_values
    from ..config.kinds import kind_of_run
    from ..config.sft import SFTConfig

    name, overrides = arguments.config, arguments.overrides
    if name is not None and "=" in name:
        name, overrides = None, [name, *overrides]
    kind = kind_of_run(name, overrides)
    command = "sft" if kind is SFTConfig else "train"
    if name is None:
        title = "Every key of a run with its default. Fill in the required keys, delete what you do not change, and "
        values = read_values(kind, None, overrides)
        if values:  # named as wrong where they are
            required = {"model": "", "task": "", "output_dir": ""}
            load_config(kind, None, [*(f"{key}={value!r}" for key, value in required.items()), *overrides])
        print(commented_yaml(kind, values, f"{title}run: dmpo {command} FILE.yaml"), end="")
        return
    given = " ".join([name, *overrides])
    title = f"Every key of the run `dmpo {command} {given}`. Save it under another name and run: "
    title += f"dmpo {command} FILE.yaml"
    values = config_values(load_config(kind, name, overrides))
    print(commented_yaml(kind, values, title), end="")


COMMAND = Command(
    name="config",
    text="Print a commented YAML of every key of a run: type, default, meaning; with the values of a config, if named.",
    example="dmpo config sudoku-tiny > mine.yaml",
    add_arguments=add_arguments,
    run=run,
    keys=keys_of_a_run,
)
