"""`dmpo generate`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .commands import Command

if TYPE_CHECKING:
    from ..config import GenerateConfig
    from ..evaluation.completing import Completion


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, a prompt or a file of prompts, and keys."""
    parser.add_argument("model", metavar="MODEL", help="folder of a run, a checkpoint or an adapter, hub id or name")
    parser.add_argument(
        "words", nargs="*", metavar="PROMPT key=value", help="a prompt, unless --prompts is given, then keys"
    )
    parser.add_argument("--prompts", metavar="FILE", type=Path, help=".txt of a prompt a line, .jsonl, .csv, .parquet")
    parser.add_argument("--column", metavar="NAME", help="of the prompts in a table; default: prompt")
    parser.add_argument("--output", metavar="FILE.jsonl", type=Path, help="write completions there; must not exist")
    parser.add_argument(
        "--show-prompt",
        action="store_true",
        help="print each prompt as the model sees it, after the chat template, and its number of tokens",
    )


def run(arguments: argparse.Namespace) -> None:
    """Complete prompts."""
    from ..config import GenerateConfig
    from ..config.files import load_config
    from ..evaluation.run_keys import keys_of_generation
    from ..run.early_checks import check_model_path, check_own_modules

    prompt, words = prompt_and_keys(arguments)
    from_run = keys_of_generation(arguments.model, words)
    config = load_config(GenerateConfig, None, [*from_run, *words])
    check_model_path(arguments.model)
    check_own_modules("decoder", [config.decoder])
    _check_output(arguments.output)

    from ..evaluation.completing import PROMPT, Cost, complete_in_order, encode_rows, read_prompts
    from ..evaluation.source import find_source
    from ..models.placement import parse_device
    from ..models.published import read_model_config
    from ..models.tokenizer import load_tokenizer, seen_prompt

    rows = [{PROMPT: prompt}] if prompt is not None else read_prompts(arguments.prompts, arguments.column or PROMPT)
    device = parse_device(config.device)
    source = find_source(arguments.model, config)
    tokenizer = load_tokenizer(source.tokenizer)
    positions = read_model_config(str(source.base), config.mask_id, config.eos_id).max_position_embeddings
    examples = encode_rows(tokenizer, rows, _prompt_limit(config, positions))
    for example in examples if arguments.show_prompt else ():
        print(f"{len(example.ids)} tokens:\n{seen_prompt(tokenizer, example.row)}\n", flush=True)
    cost = Cost()
    completions = complete_in_order(source.load(config, device), tokenizer, examples, config, cost)
    if arguments.output:
        _write(completions, arguments.output, len(rows))
    elif arguments.prompts:
        for completion in completions:
            print(f"---- {completion.index + 1} of {len(rows)} ----\n{completion.text}", flush=True)
    else:
        print(next(completions).text, flush=True)
    print(cost, file=sys.stderr)
    if from_run:
        print(f"decoded as {arguments.model} was trained: {' '.join(from_run)}", file=sys.stderr)


def prompt_and_keys(arguments: argparse.Namespace) -> tuple[str | None, list[str]]:
    """The prompt, None where a file has the prompts, and `key=value`. Raises ValueError for none of the two, or both.

    A prompt may have "=", so only a word that begins with a key is no prompt.
    """
    import dataclasses

    from ..config import GenerateConfig
    from ..config.spelling import OLDER_NAMES

    known = {field.name for field in dataclasses.fields(GenerateConfig)} | set(getattr(GenerateConfig, OLDER_NAMES))
    words = list(arguments.words)
    has_prompt = bool(words) and words[0].partition("=")[0] not in known
    if arguments.prompts is None:
        if not has_prompt:
            raise ValueError("give a prompt after the model, or a file of prompts by --prompts FILE")
        if arguments.column is not None:
            raise ValueError(f"--column {arguments.column} needs a file of prompts: --prompts FILE")
        return words[0], words[1:]
    if has_prompt and "=" not in words[0]:
        raise ValueError(f"give a prompt or --prompts, not both, got {words[0]!r} and {arguments.prompts}")
    return None, words


def _check_output(path: Path | None) -> None:
    if path is None:
        return
    if path.suffix != ".jsonl":
        raise ValueError(f"--output must end in .jsonl, got {path}")
    if path.exists():
        raise ValueError(f"--output {path} exists: give another file, or delete it")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"--output {path}: there is no folder {path.parent}")


def _prompt_limit(config: GenerateConfig, positions: int) -> int:
    """Tokens that a prompt may have."""
    room = positions - config.gen_length
    if room < 1:
        raise ValueError(
            f"gen_length must leave room for the prompt in the model's {positions} positions, got {config.gen_length}"
        )
    limit = config.max_prompt_length
    if limit is not None and limit > room:
        raise ValueError(
            f"max_prompt_length + gen_length is {limit + config.gen_length}, the model takes {positions}: give a "
            f"max_prompt_length of at most {room}"
        )
    return room if limit is None else limit


def _write(completions: Iterable[Completion], path: Path, total: int) -> None:
    """A line of JSON for each completion, as soon as it is there."""
    from rich.progress import Progress

    from ..evaluation.completing import as_line
    from ..storage.terminal import make_console

    console = make_console(stderr=True)
    with path.open("x", encoding="utf-8") as file, Progress(console=console, disable=not console.is_terminal) as bar:
        for completion in bar.track(completions, total=total, description=path.name):
            file.write(json.dumps(as_line(completion), default=str) + "\n")
            file.flush()
    print(f"{total} completions in {path}")


def keys() -> Mapping[str, type]:
    """The config class of a generation."""
    from ..config import GenerateConfig

    return {"Keys, as key=value or --key value; of a run, decoding is as the run was trained:": GenerateConfig}


COMMAND = Command(
    name="generate",
    text="Complete a prompt, or the prompts of a file, with a run, a checkpoint or an adapter.",
    example='dmpo generate runs/sudoku-tiny "12..3.........43"',
    add_arguments=add_arguments,
    run=run,
    keys=keys,
)
