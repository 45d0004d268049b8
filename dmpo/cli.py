"""The command line: `dmpo plan | train | eval | pretrain | generate | merge | config-file | info`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from .storage.terminal import discard_output, replace_unprintable

DOES_NOT_FIT, MISTAKE, NO_STEP_TAKEN, INTERRUPTED = 1, 2, 3, 130  # exit statuses
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
        return MISTAKE
    except KeyboardInterrupt:
        print(f"interrupted; {_AFTER_INTERRUPT.get(arguments.command, 'nothing is kept')}", file=sys.stderr)
        return INTERRUPTED
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

    train = command("train", _train, "Train with DMPO; the config is a YAML file or a shipped name.")
    train.add_argument("config", help="path of a .yaml file, or a shipped name such as sudoku-tiny")
    train.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="e.g. seed=1 output_dir=runs/second"
    )
    plan = command(
        "plan",
        _plan,
        "Expected memory of a training run by part and phase; nothing is loaded. Exit status 1: it does not fit.",
    )
    plan.add_argument("config", help="as of dmpo train")
    plan.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="as of dmpo train")
    plan.add_argument("--gpus", type=int, default=1, help="ranks, one GPU each; default 1")
    plan.add_argument("--memory", type=float, default=80.0, metavar="GB", help="of each GPU; default 80")
    plan.add_argument("--sharding", default="ddp", help="ddp (default), zero2, zero3 or fsdp")
    evaluate = command("eval", _evaluate, "Evaluate a checkpoint on tasks, or score completions in a file.")
    evaluate.add_argument(
        "overrides",
        nargs="*",
        metavar="[MODEL] key=value",
        help="e.g. tasks=[gsm8k,math] limit=100; what is not given for the folder of a run is as the run was trained",
    )
    evaluate.add_argument("--config", metavar="YAML", help="file of the same keys")
    evaluate.add_argument("--adapter", metavar="FOLDER", help="LoRA adapter to put on the model; or adapter=FOLDER")
    evaluate.add_argument("--rescore", metavar="FILE", help="JSON or JSON lines of completions; needs no model")
    pretrain = command("pretrain", _pretrain, "Make an embedded tiny model from scratch.")
    pretrain.add_argument(
        "overrides",
        nargs="*",
        metavar="[MODEL] key=value",
        help="as of sudoku-tiny if not named; output_dir=FOLDER is required",
    )
    generate = command("generate", _generate, "Complete a prompt with a checkpoint.")
    generate.add_argument("model", help="checkpoint folder, hub id or embedded name")
    generate.add_argument("prompt")
    generate.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="arguments of dmpo.generate")
    merge = command("merge", _merge, "Turn a run, or an adapter and its base, into a plain checkpoint.")
    merge.add_argument("source", help="folder of a run, a checkpoint, an adapter or a model; or a hub id")
    merge.add_argument("--output", required=True, metavar="FOLDER", help="absent or empty")
    merge.add_argument("--base", metavar="PATH_OR_HUB_ID", help="base model; default: what the adapter names")
    merge.add_argument("--layout", choices=["llada", "transformers"], help="key names; default: the base's")
    launch = command("config-file", _config_file, "Print where a shipped config of accelerate launch lies.")
    launch.add_argument("name", help="ddp, fsdp2, deepspeed_zero2 or deepspeed_zero3")
    command("info", _info, "Device, versions, and which kernels are in use and why.")

    arguments, rest = parser.parse_known_args(argv)
    if rest and (not hasattr(arguments, "overrides") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # key=value after an option
        arguments.overrides += rest
    return arguments


def _train(arguments: argparse.Namespace) -> int:
    """Train a run; the exit status says whether it took a step."""
    from .config import DMPOConfig
    from .config.files import load_config

    config = load_config(DMPOConfig, arguments.config, arguments.overrides)

    from .run.early_checks import check_run

    check_run(config, arguments.config)
    if int(os.environ.get("RANK", "0")) == 0:
        run = f"max_steps {config.max_steps}, output_dir {config.output_dir}"
        print(f"{config.model} on {config.task}, {run}; loading torch", flush=True)

    from .trainer import DMPOTrainer

    return 0 if DMPOTrainer(config).train()["steps_taken"] else NO_STEP_TAKEN


def _evaluate(arguments: argparse.Namespace) -> None:
    """Evaluate a checkpoint, or score completions that a file holds."""
    from .config.files import load_config
    from .run.early_checks import check_model_path, check_own_modules

    words = arguments.overrides
    named = {"file": arguments.rescore, "adapter": arguments.adapter}
    if words and "=" not in words[0]:
        named["model"], words = words[0], words[1:]
    if arguments.config and Path(arguments.config).suffix not in (".yaml", ".yml"):
        raise ValueError(f"--config must be a .yaml file, got {arguments.config}")
    words = [*words, *(f"{key}={json.dumps(value)}" for key, value in named.items() if value is not None)]
    if arguments.rescore is not None:
        from .evaluation.rescore import RescoreConfig, rescore

        rescore(load_config(RescoreConfig, arguments.config, words))
        return
    from .evaluation.keys import EvalConfig
    from .evaluation.run_keys import keys_of_run

    from_run = keys_of_run(arguments.config, words)
    config = load_config(EvalConfig, arguments.config, [*from_run, *words])
    check_model_path(config.model)
    check_own_modules("decoder", config.decoders)
    if from_run and int(os.environ.get("RANK", "0")) == 0:
        print(f"as {config.model} was trained: {' '.join(from_run)}", flush=True)

    from .evaluation.runner import evaluate_checkpoint

    evaluate_checkpoint(config)


def _plan(arguments: argparse.Namespace) -> int:
    """Print the memory that a run will need; the exit status says whether it fits."""
    from .config import DMPOConfig
    from .config.files import load_config
    from .run.early_checks import check_model_path

    config = load_config(DMPOConfig, arguments.config, arguments.overrides)
    check_model_path(config.model)

    from .models.published import read_model_config
    from .planning.plan import plan, table, verdict
    from .storage.terminal import make_console

    sizes = {"gpus": arguments.gpus, "memory": arguments.memory, "sharding": arguments.sharding}
    planned = plan(config, read_model_config(config.model, config.mask_id, config.eos_id), **sizes)
    make_console().print(table(planned))
    print(verdict(planned, config))
    return 0 if planned.fits else DOES_NOT_FIT


def _pretrain(arguments: argparse.Namespace) -> None:
    """Make an embedded model from scratch."""
    from .config.files import load_config
    from .config.pretrain import PretrainConfig
    from .models.files import recipe_overrides

    given = arguments.overrides
    recipe = recipe_overrides(given.pop(0)) if given and "=" not in given[0] else []
    config = load_config(PretrainConfig, None, [*recipe, *given])
    folder = Path(config.output_dir)
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"output_dir {folder} is not empty: give another folder")

    from rich.progress import Progress

    from .models import save_model
    from .pretrain import as_dict, character_tokenizer, pretrain
    from .storage.terminal import make_console

    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with Progress(console=make_console()) as progress:
        task = progress.add_task("pretraining", total=config.correct_steps + config.sloppy_steps)
        model = pretrain(config, lambda step, loss: progress.update(task, completed=step))
    save_model(model, folder, layout="llada")
    character_tokenizer(config.task).save_pretrained(folder)
    (folder / "recipe.json").write_text(json.dumps(as_dict(config), indent=2) + "\n")
    print(f"{folder}: {sum(p.numel() for p in model.parameters()):,} parameters, {time.perf_counter() - start:.0f} s")


def _generate(arguments: argparse.Namespace) -> None:
    """Complete a prompt."""
    from .config.files import load_config
    from .config.generate import GenerateConfig
    from .run.early_checks import check_model_path, check_own_modules

    config = load_config(GenerateConfig, None, arguments.overrides)
    check_model_path(arguments.model)
    check_own_modules("decoder", [config.decoder])

    from .decoding import generate
    from .models import load_model, load_tokenizer
    from .models.tokenizer import decode_text, encode_prompts

    model = load_model(arguments.model, device=config.device, mask_id=config.mask_id, eos_id=config.eos_id)
    tokenizer = load_tokenizer(arguments.model)
    positions = model.config.max_position_embeddings
    if (limit := positions - config.gen_length) < 1:
        raise ValueError(
            f"gen_length must leave room for the prompt in the model's {positions} positions, got {config.gen_length}"
        )
    prompt_ids, prompt_mask = encode_prompts(tokenizer, [{"prompt": arguments.prompt}], limit)
    result = generate(
        model,
        prompt_ids.to(model.device),
        config,
        attention_mask=prompt_mask.to(model.device),
    )
    print(decode_text(tokenizer, result.sequences[:, prompt_ids.shape[1] :])[0])
    speed = f"{result.tokens_per_forward:.2f} tokens a row-forward, {result.seconds:.2f} s"
    print(f"{result.forwards} forwards, {result.row_forwards} row-forwards, {speed}", file=sys.stderr)


def _merge(arguments: argparse.Namespace) -> None:
    """Write a plain checkpoint."""
    from .run.early_checks import check_model_path

    check_model_path(arguments.source)

    from .models.merge import merge

    print(merge(arguments.source, arguments.output, base=arguments.base, layout=arguments.layout))


def _config_file(arguments: argparse.Namespace) -> None:
    """Print the path of a config for accelerate launch."""
    from .config.files import launch_config_path

    print(launch_config_path(arguments.name))


def _info(arguments: argparse.Namespace) -> None:
    """Print device, versions and kernels."""
    import torch

    from .kernels.launch import kernel_status
    from .kernels.remask import extension_status
    from .run.versions import PACKAGES, installed_version, installed_versions, recorded_sets, whether_tested

    for name in ("dmpo", *PACKAGES):
        print(f"{name:<13} {installed_version(name) or 'not installed'}")
    print(f"{'tested':<13} {whether_tested(installed_versions(), recorded_sets())}")
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else f"cpu, {torch.get_num_threads()} threads"
    print(f"{'device':<13} {device}")
    built, reason = extension_status()
    print(f"{'remasking':<13} {'C++ extension' if built else 'plain PyTorch'} ({reason})")
    used, why = kernel_status("cuda" if cuda else "cpu")
    print(f"{'losses, draw':<13} {'Triton' if used else 'plain PyTorch, masked rows only'} ({why})")
