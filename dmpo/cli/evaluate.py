"""`dmpo eval`."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path

from .commands import Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model and keys, or a file of keys, or a file of completions."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="[MODEL] key=value",
        help="a checkpoint folder, hub id, embedded name or the folder of a run, then keys. What is not given for a "
        "run is as the run was trained",
    )
    parser.add_argument("--config", metavar="YAML", help="file of the same keys")
    parser.add_argument("--rescore", metavar="FILE", help="JSON or JSON lines of completions; needs no model")


def run(arguments: argparse.Namespace) -> None:
    """Evaluate a checkpoint, or score completions that a file holds."""
    from ..config.files import load_config
    from ..run.early_checks import check_model_path, check_own_modules

    words, named = arguments.overrides, {"file": arguments.rescore}
    if words and "=" not in words[0]:
        named["model"], words = words[0], words[1:]
    if arguments.config and Path(arguments.config).suffix not in (".yaml", ".yml"):
        raise ValueError(f"--config must be a .yaml file, got {arguments.config}")
    words = [*words, *(f"{key}={json.dumps(value)}" for key, value in named.items() if value is not None)]
    if arguments.rescore is not None:
        from ..evaluation.rescore import RescoreConfig, rescore

        rescore(load_config(RescoreConfig, arguments.config, words))
        return
    from ..evaluation.keys import EvalConfig
    from ..evaluation.run_keys import keys_of_run

    from_run = keys_of_run(arguments.config, words)
    config = load_config(EvalConfig, arguments.config, [*from_run, *words])
    check_model_path(config.model)
    check_own_modules("decoder", config.decoder)
    if from_run and int(os.environ.get("RANK", "0")) == 0:
        print(f"as {config.model} was trained: {' '.join(from_run)}", flush=True)

    from ..evaluation.runner import evaluate_checkpoint

    evaluate_checkpoint(config)


def keys() -> Mapping[str, type]:
    """The config classes of an evaluation and of a rescoring."""
    from ..evaluation.keys import EvalConfig
    from ..evaluation.rescore import RescoreConfig

    return {
        "Keys, as key=value or --key value; a list of one may be a single value:": EvalConfig,
        "Keys with --rescore:": RescoreConfig,
    }


COMMAND = Command(
    name="eval",
    text="Evaluate a checkpoint on tasks, or score completions in a file.",
    example="dmpo eval runs/sudoku-tiny checkpoint=best eval_prompts=100 output_dir=runs/evaluated",
    add_arguments=add_arguments,
    run=run,
    keys=keys,
    after_interrupt="to continue, run the same command again",
)
