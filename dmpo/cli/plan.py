"""`dmpo plan`."""

from __future__ import annotations

import argparse

from .commands import DOES_NOT_FIT, Command
from .run_keys import add_run_arguments, keys_of_a_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The config of a run, and the machine."""
    add_run_arguments(parser)
    parser.add_argument("--gpus", type=int, default=1, help="ranks, one GPU each; default 1")
    parser.add_argument("--memory", type=float, default=80.0, metavar="GB", help="of each GPU; default 80")
    parser.add_argument("--sharding", default="ddp", help="ddp (default), zero2, zero3 or fsdp")


def run(arguments: argparse.Namespace) -> int:
    """Print the memory that a run will need; the exit status says whether it fits."""
    from ..config.files import load_config
    from ..config.kinds import kind_of_run
    from ..run.early_checks import check_model_path

    config = load_config(kind_of_run(arguments.config, arguments.overrides), arguments.config, arguments.overrides)
    check_model_path(config.model)

    from ..models.published import read_model_config
    from ..planning.plan import plan, table, verdict
    from ..storage.terminal import make_console

    sizes = {"gpus": arguments.gpus, "memory": arguments.memory, "sharding": arguments.sharding}
    planned = plan(config, read_model_config(config.model, config.mask_id, config.eos_id), **sizes)
    make_console().print(table(planned))
    print(verdict(planned, config))
    return 0 if planned.fits else DOES_NOT_FIT


COMMAND = Command(
    name="plan",
    text="Tell the expected memory of a run by part and phase; nothing is loaded. Exit status 1: it does not fit.",
    example="dmpo plan llada-8b-gsm8k --gpus 8 --memory 80",
    add_arguments=add_arguments,
    run=run,
    keys=keys_of_a_run,
)
