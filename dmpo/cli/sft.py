"""`dmpo sft`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping

from .commands import NO_STEP_TAKEN, Command
from .run_keys import add_run_arguments


def run(arguments: argparse.Namespace) -> int:
    """Fine-tune a model; the exit status says whether a step was taken."""
    from ..config.files import load_config
    from ..config.sft import SFTConfig

    config = load_config(SFTConfig, arguments.config, arguments.overrides)

    from ..run.early_checks import check_sft_run

    check_sft_run(config, arguments.config)
    if int(os.environ.get("RANK", "0")) == 0:
        where = f"max_steps {config.max_steps}, output_dir {config.output_dir}"
        print(f"{config.model} on answers of {config.task}, {where}; loading torch", flush=True)

    from ..sft import SFTTrainer

    return 0 if SFTTrainer(config).train()["steps_taken"] else NO_STEP_TAKEN


def keys() -> Mapping[str, type]:
    """The config class of supervised fine-tuning."""
    from ..config.sft import SFTConfig

    return {"Keys of supervised fine-tuning, as key=value or --key value, or in the YAML file:": SFTConfig}


COMMAND = Command(
    name="sft",
    text="Fine-tune a model on answers, by the masked-diffusion loss; the config is a YAML file or a shipped name.",
    example="dmpo sft sudoku-tiny-sft output_dir=runs/taught",
    add_arguments=add_run_arguments,
    run=run,
    keys=keys,
    after_interrupt="to continue from the newest checkpoint, run the same command with resume=true",
)
