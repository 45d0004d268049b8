"""`dmpo train`."""

from __future__ import annotations

import argparse
import os

from .commands import NO_STEP_TAKEN, Command
from .run_keys import add_run_arguments, keys_of_a_run


def run(arguments: argparse.Namespace) -> int:
    """Train a run; the exit status says whether it took a step."""
    from ..config import DMPOConfig
    from ..config.files import load_config

    config = load_config(DMPOConfig, arguments.config, arguments.overrides)

    from ..run.early_checks import check_run

    check_run(config, arguments.config)
    if int(os.environ.get("RANK", "0")) == 0:
        where = f"max_steps {config.max_steps}, output_dir {config.output_dir}"
        print(f"{config.model} on {config.task}, {where}; loading torch", flush=True)

    from ..trainer import DMPOTrainer

    return 0 if DMPOTrainer(config).train()["steps_taken"] else NO_STEP_TAKEN


COMMAND = Command(
    name="train",
    text="Train with DMPO; the config is a YAML file or a shipped name.",
    example="dmpo train sudoku-tiny seed=1 output_dir=runs/second",
    add_arguments=add_run_arguments,
    run=run,
    keys=keys_of_a_run,
    after_interrupt="to continue from the newest checkpoint, run the same command with resume=true",
)
