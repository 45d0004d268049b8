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


def main(argv: list[str] | None = None) -> int:
    """Run one command; what the user got wrong is one line and exit status 2. DMPO_TRACEBACK=1 shows where."""
    parser = argparse.ArgumentParser(
        prog="dmpo", description="Reinforcement learning for masked diffusion language models."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    train = command("train", _train, "Train with DMPO; the config is a YAML file or a shipped name.")
    train.add_argument("config", help="path of a .yaml file, or a shipped name such as sudoku-tiny")
    train.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="e.g. seed=1 output_dir=runs/second"
    )
    planned = command("plan", _plan, "Expected memory of a training run by part and phase; nothing is loaded.")
    planned.add_argument("config", help="as of dmpo train")
    planned.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="as of dmpo train")
    planned.add_argument("--gpus", type=int, default=1, help="ranks, one GPU each; default 1")
    planned.add_argument("--memory", type=float, default=80.0, metavar="GB", help="of each GPU; default 80")
    planned.add_argument("--sharding", default="ddp", help="ddp (default), zero2, zero3 or fsdp")
    evaluate = command("eval", _eval, "Evaluate a checkpoint on tasks, or score completions saved in a file.")
    evaluate.add_argument("overrides", nargs="*", metavar="[MODEL] key=value", help="e.g. tasks=[gsm8k,math] limit=100")
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
    sys.path.append("")  # a task or reward of one's own lies in the current folder
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        arguments.run(arguments)
    except (ValueError, TypeError, ImportError, OSError, FloatingPointError) as error:
        if os.environ.get("DMPO_TRACEBACK"):
            raise
        print(f"dmpo {arguments.command}: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        ways = {"train": "go on from the newest checkpoint with resume=true", "eval": "the same command goes on"}
        print(f"interrupted; {ways.get(arguments.command, 'nothing is kept')}", file=sys.stderr)
        return 130
    return 0


def _train(arguments: argparse.Namespace) -> None:
    from .config import DMPOConfig
    from .config_files import load_config
    from .trainer import DMPOTrainer

    DMPOTrainer(load_config(DMPOConfig, arguments.config, arguments.overrides)).train()


def _eval(arguments: argparse.Namespace) -> None:
    from .config_files import load_config

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
    else:
        from .evaluation.runner import evaluate_checkpoint
        from .evaluation.settings import EvalConfig

        evaluate_checkpoint(load_config(EvalConfig, arguments.config, words))


def _plan(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from .config import DMPOConfig
    from .config_files import load_config
    from .plan import plan, read_model_config, table, verdict

    config = load_config(DMPOConfig, arguments.config, arguments.overrides)
    model_config = read_model_config(config.model)
    sizes = {"gpus": arguments.gpus, "memory": arguments.memory, "sharding": arguments.sharding}
    found = plan(config, model_config, **sizes)
    Console().print(table(found))
    print(verdict(found))


def _pretrain(arguments: argparse.Namespace) -> None:
    from rich.progress import Progress

    from .config_files import load_config
    from .models import save_model
    from .pretrain import PretrainConfig, as_dict, character_tokenizer, pretrain, recipe_overrides

    given = arguments.overrides
    recipe = recipe_overrides(given.pop(0)) if given and "=" not in given[0] else []
    config = load_config(PretrainConfig, None, [*recipe, *given])
    folder = Path(config.output_dir)
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"output_dir {folder} is not empty")
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with Progress() as progress:
        task = progress.add_task("pretraining", total=config.correct_steps + config.sloppy_steps)
        model = pretrain(config, lambda step, loss: progress.update(task, completed=step))
    save_model(model, folder, layout="llada")
    character_tokenizer(config.task).save_pretrained(folder)
    (folder / "recipe.json").write_text(json.dumps(as_dict(config), indent=2) + "\n")
    print(f"{folder}: {sum(p.numel() for p in model.parameters()):,} parameters, {time.perf_counter() - start:.0f} s")


def _generate(arguments: argparse.Namespace) -> None:
    from .config import GenerateConfig, decoding_options
    from .config_files import load_config
    from .decoding import generate
    from .models import load_model, load_tokenizer
    from .prompts import decode_text, encode_prompts

    config = load_config(GenerateConfig, None, arguments.overrides)
    model, tokenizer = load_model(arguments.model, device=config.device), load_tokenizer(arguments.model)
    positions = model.config.max_position_embeddings
    if (limit := positions - config.gen_length) < 1:
        raise ValueError(
            f"gen_length must leave room for the prompt in the model's {positions} positions, got {config.gen_length}"
        )
    prompt_ids, prompt_mask = encode_prompts(tokenizer, [{"prompt": arguments.prompt}], limit)
    result = generate(
        model,
        prompt_ids.to(model.device),
        attention_mask=prompt_mask.to(model.device),
        **decoding_options(config),
    )
    print(decode_text(tokenizer, result.sequences[:, prompt_ids.shape[1] :])[0])
    speed = f"{result.tokens_per_forward:.2f} tokens a row-forward, {result.seconds:.2f} s"
    print(f"{result.forwards} forwards, {result.row_forwards} row-forwards, {speed}", file=sys.stderr)


def _merge(arguments: argparse.Namespace) -> None:
    from .merge import merge

    print(merge(arguments.source, arguments.output, base=arguments.base, layout=arguments.layout))


def _config_file(arguments: argparse.Namespace) -> None:
    from .config_files import launch_config_path

    print(launch_config_path(arguments.name))


def _info(arguments: argparse.Namespace) -> None:
    from importlib import metadata

    import torch

    from .kernels.launch import kernel_status
    from .kernels.remask import extension_status

    for name in ("dmpo", "torch", "triton", "transformers", "accelerate", "peft"):
        try:
            print(f"{name:<13} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"{name:<13} not installed")
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else f"cpu, {torch.get_num_threads()} threads"
    print(f"{'device':<13} {device}")
    built, reason = extension_status()
    print(f"{'remasking':<13} {'C++ extension' if built else 'plain PyTorch'} ({reason})")
    used, why = kernel_status("cuda" if cuda else "cpu")
    print(f"{'losses, draw':<13} {'Triton' if used else 'plain PyTorch, masked rows only'} ({why})")
