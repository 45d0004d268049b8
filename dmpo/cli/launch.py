"""`dmpo config-file`."""

from __future__ import annotations

import argparse

from .commands import Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The name of a config."""
    parser.add_argument("name", help="ddp, fsdp2, deepspeed_zero2 or deepspeed_zero3")


def run(arguments: argparse.Namespace) -> None:
    """Print the path of a config for accelerate launch."""
    from ..config.files import launch_config_path

    print(launch_config_path(arguments.name))


COMMAND = Command(
    name="config-file",
    text="Print where a shipped config of accelerate launch lies.",
    example="accelerate launch --config_file $(dmpo config-file ddp) -m dmpo train llada-8b-gsm8k",
    add_arguments=add_arguments,
    run=run,
)
