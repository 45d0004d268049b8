"""The command line: `dmpo plan | train | eval | pretrain | generate | merge | config-file | info`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable

from . import commands
from .terminal import discard_output, replace_unprintable

_WRONG, _INTERRUPTED = 2, 130  # exit statuses
_AFTER_INTERRUPT = {
    "train": "to continue from the newest checkpoint, run the same command with resume=true",
    "eval": "to continue, run the same command again",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status. DMPO_TRACEBACK=1 shows where an error came from.

    0: done. 1: `dmpo plan` found that the run does not fit. 2: the user's mistake, named in one line. 3: a run ended
    without a single step, as each step was skipped. 130: interrupted.
    """
    arguments = _parse(argv)
    sys.path.append("")  # a task or reward of one's own lies in the current folder
    replace_unprintable()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        status: int = arguments.run(arguments) or 0
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has left, as head does
        discard_output()
        return 0
    except (ValueError, TypeError, ImportError, OSError, FloatingPointError) as error:
        if os.environ.get("DMPO_TRACEBACK"):
            raise
        print(f"dmpo {arguments.command}: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return _WRONG
    except KeyboardInterrupt:
        print(f"interrupted; {_AFTER_INTERRUPT.get(arguments.command, 'nothing is kept')}", file=sys.stderr)
        return _INTERRUPTED
    return status


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dmpo", description="Reinforcement learning for masked diffusion language models."
    )
    subparsers = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int | None], text: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    train = command("train", commands.train, "Train with DMPO; the config is a YAML file or a shipped name.")
    train.add_argument("config", help="path of a .yaml file, or a shipped name such as sudoku-tiny")
    train.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="e.g. seed=1 output_dir=runs/second"
    )
    plan = command(
        "plan",
        commands.plan,
        "Expected memory of a training run by part and phase; nothing is loaded. Exit status 1: it does not fit.",
    )
    plan.add_argument("config", help="as of dmpo train")
    plan.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="as of dmpo train")
    plan.add_argument("--gpus", type=int, default=1, help="ranks, one GPU each; default 1")
    plan.add_argument("--memory", type=float, default=80.0, metavar="GB", help="of each GPU; default 80")
    plan.add_argument("--sharding", default="ddp", help="ddp (default), zero2, zero3 or fsdp")
    evaluate = command("eval", commands.evaluate, "Evaluate a checkpoint on tasks, or score completions in a file.")
    evaluate.add_argument(
        "overrides",
        nargs="*",
        metavar="[MODEL] key=value",
        help="e.g. tasks=[gsm8k,math] limit=100; what is not given for the folder of a run is as the run was trained",
    )
    evaluate.add_argument("--config", metavar="YAML", help="file of the same keys")
    evaluate.add_argument("--adapter", metavar="FOLDER", help="LoRA adapter to put on the model; or adapter=FOLDER")
    evaluate.add_argument("--rescore", metavar="FILE", help="JSON or JSON lines of completions; needs no model")
    pretrain = command("pretrain", commands.pretrain, "Make an embedded tiny model from scratch.")
    pretrain.add_argument(
        "overrides",
        nargs="*",
        metavar="[MODEL] key=value",
        help="as of sudoku-tiny if not named; output_dir=FOLDER is required",
    )
    generate = command("generate", commands.generate, "Complete a prompt with a checkpoint.")
    generate.add_argument("model", help="checkpoint folder, hub id or embedded name")
    generate.add_argument("prompt")
    generate.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="arguments of dmpo.generate")
    merge = command("merge", commands.merge, "Turn a run, or an adapter and its base, into a plain checkpoint.")
    merge.add_argument("source", help="folder of a run, a checkpoint, an adapter or a model; or a hub id")
    merge.add_argument("--output", required=True, metavar="FOLDER", help="absent or empty")
    merge.add_argument("--base", metavar="PATH_OR_HUB_ID", help="base model; default: what the adapter names")
    merge.add_argument("--layout", choices=["llada", "transformers"], help="key names; default: the base's")
    launch = command("config-file", commands.config_file, "Print where a shipped config of accelerate launch lies.")
    launch.add_argument("name", help="ddp, fsdp2, deepspeed_zero2 or deepspeed_zero3")
    command("info", commands.info, "Device, versions, and which kernels are in use and why.")

    arguments, rest = parser.parse_known_args(argv)
    if rest and (not hasattr(arguments, "overrides") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # key=value after an option
        arguments.overrides += rest
    return arguments
