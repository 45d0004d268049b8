"""The work of one rank: the list of missing completions, decoded batch by batch."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Container, Iterator
from typing import Any

import torch
from rich.progress import Progress
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..decoding import generate
from ..models.tokenizer import pad_left
from ..randomness import derive_key
from ..storage.terminal import make_console
from .attempts import Attempt, read_attempts
from .examples import Example, TaskExamples
from .folder import Key, RankLines
from .keys import MOST_SAMPLES, Cell, EvalConfig, cells


class Work:
    """The missing completions of a rank. The index of an example decides its rank."""

    def __init__(
        self, config: EvalConfig, examples: dict[str, TaskExamples], rank: int, world: int, done: Container[Key]
    ) -> None:
        self.config, self.examples = config, examples
        self.todo: dict[Cell, list[tuple[Example, int]]] = {}
        for cell in cells(config):
            mine = examples[cell.task].examples[rank::world]
            self.todo[cell] = [
                (example, sample)
                for example in mine
                for sample in range(config.samples)
                if (cell.task, cell.gen_length, cell.decoder, example.index, sample) not in done
            ]

    @property
    def left(self) -> int:
        return sum(map(len, self.todo.values()))

    def batches(self) -> Iterator[tuple[Cell, list[tuple[Example, int]]]]:
        """Up to rollout_batch_size completions of one cell with prompts of one shape, the longest first: if any batch
        does not fit into memory, the first one does not."""
        for cell, todo in self.todo.items():
            by_shape = defaultdict(list)
            for example, sample in todo:
                by_shape[example.shape].append((example, sample))
            for shape in sorted(by_shape, reverse=True):
                for start in range(0, len(by_shape[shape]), self.config.rollout_batch_size):
                    yield cell, by_shape[shape][start : start + self.config.rollout_batch_size]


def decode_missing(
    work: Work,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rank_lines: RankLines,
    device: torch.device,
    *,
    visible: bool,
) -> None:
    """Decode in batches and write every completion as soon as its batch is done."""
    config = work.config
    with Progress(console=make_console(stderr=True, quiet=not visible), disable=not visible) as progress:
        bar = progress.add_task("", total=work.left)
        for cell, batch in work.batches():
            progress.update(bar, description=f"{cell.task} {cell.gen_length} {cell.decoder}")
            of_task = work.examples[cell.task]
            start = time.perf_counter()
            prompt_ids, prompt_mask = pad_left(tokenizer, [example.ids for example, _ in batch], batch[0][0].width)
            generation = generate(
                model,
                prompt_ids.to(device),
                config.decoding(cell.gen_length, cell.decoder),
                attention_mask=prompt_mask.to(device),
                row_ids=torch.tensor([example.index * MOST_SAMPLES + sample for example, sample in batch]).to(device),
                seed=derive_key(config.seed, "eval", cell.task, config.split),
            )
            generation.sequences.cpu()  # waits for the last kernel
            seconds = time.perf_counter() - start
            rows = [example.row for example, _ in batch]
            attempts = read_attempts(generation, tokenizer, of_task.task, rows)
            cost = {"seconds": seconds / len(batch), "forwards": generation.forwards / len(batch)}
            rank_lines.append(
                *(
                    _line(config, cell, of_task, example, sample, attempt) | {"cost": cost}
                    for (example, sample), attempt in zip(batch, attempts, strict=True)
                )
            )
            progress.update(bar, advance=len(batch))


def _line(
    config: EvalConfig, cell: Cell, of_task: TaskExamples, example: Example, sample: int, attempt: Attempt
) -> dict[str, Any]:
    """A line of results.jsonl, with the `columns` of the row: it can be scored again without the data set."""
    where = {"task": cell.task, "split": config.split, "index": example.index, "sample": sample}
    decoding = {"gen_length": cell.gen_length, "decoder": cell.decoder, "temperature": config.temperature}
    prompt = {"shots": config.shots, "template_hash": of_task.template_hash, "prompt": example.row["prompt"]}
    return {
        **where,
        **decoding,
        "seed": config.seed,
        **prompt,
        "completion": attempt.completion,
        "answer": attempt.answer,
        "score": float(bool(attempt.solved)),
        "failure": attempt.failure,
        "tokens": attempt.tokens,
        "steps": attempt.steps,
        "columns": example.columns,
    }
