"""`dmpo eval`: each rank decodes its share of the missing completions, then the main rank reports all of them.

A completion depends on (seed, task, split, example, sample) and the decoder's options alone: not on its batch, on the
number of ranks, or on the step at which an earlier run stopped. This is exact if the device computes a row of a product
in the same way whatever the other rows are. If it differs in the last bits, a near tie may be decided otherwise.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from ..config.files import config_values
from ..decoding.factory import make_policy
from ..distributed.ranks import check_launch, end_together, together
from ..models.placement import parse_device
from ..models.published import read_model_config
from ..models.tokenizer import load_tokenizer
from ..storage.lock import FolderLock
from ..storage.whole_files import delete_leftovers
from ..tasks import load_task
from .examples import TaskExamples, load_examples
from .folder import Key, RankLines, check_folder, open_folder, read_parts
from .keys import EvalConfig, cells
from .results import show_table, summarise_cells, write_results
from .source import Source, find_source, trained_options
from .work import Work, decode_missing

# Keys that may change when an evaluation continues; the other keys are part of the fingerprint.
_MAY_CHANGE = {
    *("model", "adapter", "checkpoint", "device", "output_dir", "eval_prompts", "max_prompt_length"),
    *("rollout_batch_size", "samples", "pass_at"),
    *("task", "task_options", "gen_length", "decoder", "shots"),  # in each line, or compared task by task
}
_WAIT = timedelta(days=7)  # for the slowest rank, at the end


def evaluate_checkpoint(config: EvalConfig) -> dict[str, Any]:
    """Start or continue the evaluation of `config`; called by every rank. Returns the content of results.json.

    Raises:
        ValueError: the config, the model, a task or output_dir is wrong. Raised before anything is decoded.
    """
    waits = InitProcessGroupKwargs(timeout=_WAIT)
    accelerator = Accelerator(cpu=config.device == "cpu", kwargs_handlers=[waits])
    rank, world, main = accelerator.process_index, accelerator.num_processes, accelerator.is_main_process
    check_launch(accelerator)
    device = _device(config, accelerator)
    for cell in cells(config):
        make_policy(config.decoding(cell.gen_length, cell.decoder))  # a decoder of the user's own may be unusable
    source = find_source(config.model, config)
    options = trained_options(config)
    tasks = {name: load_task(name, **options.get(name, {})) for name in config.task}
    tokenizer = load_tokenizer(source.tokenizer)
    limit = _prompt_limit(config, source)
    examples = {name: load_examples(name, task, tokenizer, config, limit) for name, task in tasks.items()}
    task_info = {name: {"options": _plain(options.get(name, {})), **examples[name].prompt()} for name in tasks}
    folder = Path(config.output_dir)
    with ExitStack() as claims:

        def claim() -> None:
            if main:
                check_folder(folder)
                folder.mkdir(parents=True, exist_ok=True)
                claims.callback(FolderLock(folder).release)
                delete_leftovers(folder)
                open_folder(folder, _fingerprint(config, source, task_info))

        together(claim)
        work = Work(config, examples, rank, world, together(lambda: _finished(folder, examples)))
        rank_lines = together(lambda: RankLines(folder, rank))

        def decode() -> None:
            if work.left:
                model = source.load(config, device)
                decode_missing(work, model, tokenizer, rank_lines, device, visible=main)

        together(decode)
        together(rank_lines.sync)
        summary = together(lambda: _report(config, source, examples, task_info, folder) if main else {})
    end_together(accelerator)
    return summary


def _device(config: EvalConfig, accelerator: Accelerator) -> torch.device:
    """The device of this rank. Raises ValueError for one that does not exist, or for one named to several ranks."""
    if config.device in ("auto", "cpu"):
        return accelerator.device
    if accelerator.num_processes > 1:
        raise ValueError(f"device must be auto or cpu for {accelerator.num_processes} ranks, got {config.device}")
    return parse_device(config.device)


def _finished(folder: Path, examples: dict[str, TaskExamples]) -> dict[Key, dict[str, Any]]:
    """The completions on disk. Raises ValueError if the row of an example has changed since: its prompt, its right
    answer or another column from which the score came."""
    done = read_parts(folder)
    for line in done.values():
        of_task = examples.get(line["task"])
        if of_task and line["index"] < len(of_task.examples):
            example = of_task.examples[line["index"]]
            before = {"prompt": line["prompt"]} | line["columns"]
            now = {"prompt": example.row["prompt"]} | example.columns
            for name in [*now, *before]:
                if (old := _json(before, name)) != (new := _json(now, name)):
                    raise ValueError(
                        f"output_dir {folder} holds completions of other data: the {name} of {line['task']} "
                        f"{line['index']} was {old:.60} and is now {new:.60}"
                    )
    return done


def _json(columns: dict[str, Any], name: str) -> str:
    """A column as text, in which NaN equals NaN and the order of keys does not matter."""
    return json.dumps(columns[name], sort_keys=True) if name in columns else "absent"


def _report(
    config: EvalConfig, source: Source, examples: dict[str, TaskExamples], task_info: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Write the results in the order of cells, examples and samples, and show the table."""
    done = read_parts(folder)
    keys = [
        (cell.task, cell.gen_length, cell.decoder, example.index, sample)
        for cell in cells(config)
        for example in examples[cell.task].examples
        for sample in range(config.samples)
    ]
    lines = [done[key] for key in keys]
    summarised = summarise_cells(lines, config.pass_at, guided=config.cfg_scale != 0)
    shots = f", {config.shots} shots" if config.shots else ""
    title = f"{config.model}, {config.split} split, temperature {config.temperature:g}{shots}"
    summary = {
        "model": config.model,
        "base": str(source.base),
        "adapter": None if source.adapter is None else str(source.adapter),
        "settings": config_values(config),
        "tasks": task_info,
        "cells": summarised,
    }
    write_results(folder, lines, summary, title)
    show_table(summarised, f"{title}, 95 % intervals")
    return summary


def _fingerprint(config: EvalConfig, source: Source, task_info: dict[str, Any]) -> dict[str, Any]:
    settings = {key: value for key, value in config_values(config).items() if key not in _MAY_CHANGE}
    return {"model": source.identity(), "settings": settings, "tasks": task_info}


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """The options as JSON writes them."""
    plain: dict[str, Any] = json.loads(json.dumps(options, default=str))
    return plain


def _prompt_limit(config: EvalConfig, source: Source) -> int:
    """Tokens that a prompt may have."""
    model_config = read_model_config(str(source.base), config.mask_id, config.eos_id)
    positions = model_config.max_position_embeddings
    longest = max(config.gen_length)
    room = positions - longest
    if room < 1:
        raise ValueError(
            f"gen_length must leave room for a prompt in the {positions} tokens that the model takes, got {longest}"
        )
    if config.max_prompt_length is None:
        return room
    if config.max_prompt_length > room:
        raise ValueError(
            f"max_prompt_length + gen_length is {config.max_prompt_length + longest}, the model takes {positions}: "
            f"give a max_prompt_length of at most {room}"
        )
    return config.max_prompt_length
