"""What each command of `dmpo` does; what takes long to import is imported where it is used, after the checks."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

DOES_NOT_FIT, NO_STEP_TAKEN = 1, 3  # exit statuses


def train(arguments: argparse.Namespace) -> int:
    """Train a run; the exit status says whether it took a step."""
    from .config import DMPOConfig
    from .config_files import load_config

    config = load_config(DMPOConfig, arguments.config, arguments.overrides)

    from .early_checks import check_run

    check_run(config, arguments.config)
    if int(os.environ.get("RANK", "0")) == 0:
        run = f"max_steps {config.max_steps}, output_dir {config.output_dir}"
        print(f"{config.model} on {config.task}, {run}; loading torch", flush=True)

    from .trainer import DMPOTrainer

    return 0 if DMPOTrainer(config).train()["steps_taken"] else NO_STEP_TAKEN


def evaluate(arguments: argparse.Namespace) -> None:
    """Evaluate a checkpoint, or score completions that a file holds."""
    from .config_files import load_config
    from .early_checks import check_model_path

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
    from .evaluation.run_keys import keys_of_run
    from .evaluation.settings import EvalConfig

    from_run = keys_of_run(arguments.config, words)
    config = load_config(EvalConfig, arguments.config, [*from_run, *words])
    check_model_path(config.model)
    if from_run and int(os.environ.get("RANK", "0")) == 0:
        print(f"as {config.model} was trained: {' '.join(from_run)}", flush=True)

    from .evaluation.runner import evaluate_checkpoint

    evaluate_checkpoint(config)


def plan(arguments: argparse.Namespace) -> int:
    """Print the memory that a run will need; the exit status says whether it fits."""
    from .config import DMPOConfig
    from .config_files import load_config
    from .early_checks import check_model_path

    config = load_config(DMPOConfig, arguments.config, arguments.overrides)
    check_model_path(config.model)

    from .architectures import read_model_config
    from .plan import plan, table, verdict
    from .terminal import make_console

    sizes = {"gpus": arguments.gpus, "memory": arguments.memory, "sharding": arguments.sharding}
    planned = plan(config, read_model_config(config.model), **sizes)
    make_console().print(table(planned))
    print(verdict(planned, config))
    return 0 if planned.fits else DOES_NOT_FIT


def pretrain(arguments: argparse.Namespace) -> None:
    """Make an embedded model from scratch."""
    from .checkpoint_files import recipe_overrides
    from .config_files import load_config
    from .pretrain_config import PretrainConfig

    given = arguments.overrides
    recipe = recipe_overrides(given.pop(0)) if given and "=" not in given[0] else []
    config = load_config(PretrainConfig, None, [*recipe, *given])
    folder = Path(config.output_dir)
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"output_dir {folder} is not empty: give another folder")

    from rich.progress import Progress

    from .models import save_model
    from .pretrain import as_dict, character_tokenizer, pretrain
    from .terminal import make_console

    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with Progress(console=make_console()) as progress:
        task = progress.add_task("pretraining", total=config.correct_steps + config.sloppy_steps)
        model = pretrain(config, lambda step, loss: progress.update(task, completed=step))
    save_model(model, folder, layout="llada")
    character_tokenizer(config.task).save_pretrained(folder)
    (folder / "recipe.json").write_text(json.dumps(as_dict(config), indent=2) + "\n")
    print(f"{folder}: {sum(p.numel() for p in model.parameters()):,} parameters, {time.perf_counter() - start:.0f} s")


def generate(arguments: argparse.Namespace) -> None:
    """Complete a prompt."""
    from .config import GenerateConfig
    from .config_files import load_config
    from .early_checks import check_model_path

    config = load_config(GenerateConfig, None, arguments.overrides)
    check_model_path(arguments.model)

    from .decoding import generate
    from .models import load_model, load_tokenizer
    from .prompts import decode_text, encode_prompts

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
        config,
        attention_mask=prompt_mask.to(model.device),
    )
    print(decode_text(tokenizer, result.sequences[:, prompt_ids.shape[1] :])[0])
    speed = f"{result.tokens_per_forward:.2f} tokens a row-forward, {result.seconds:.2f} s"
    print(f"{result.forwards} forwards, {result.row_forwards} row-forwards, {speed}", file=sys.stderr)


def merge(arguments: argparse.Namespace) -> None:
    """Write a plain checkpoint."""
    from .early_checks import check_model_path

    check_model_path(arguments.source)

    from .merge import merge

    print(merge(arguments.source, arguments.output, base=arguments.base, layout=arguments.layout))


def config_file(arguments: argparse.Namespace) -> None:
    """Print the path of a config for accelerate launch."""
    from .config_files import launch_config_path

    print(launch_config_path(arguments.name))


def info(arguments: argparse.Namespace) -> None:
    """Print device, versions and kernels."""
    import torch

    from .kernels.launch import kernel_status
    from .kernels.remask import extension_status
    from .versions import PACKAGES, installed_version, installed_versions, recorded_sets, whether_tested

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
