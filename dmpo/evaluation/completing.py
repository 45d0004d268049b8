"""Prompts of a file or of the command line, completed by a model in their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..config.generate import GenerateConfig
from ..decoding import generate
from ..models.tokenizer import decode_text, encode_prompt, pad_left
from ..tasks import Row
from ..tasks.messages import MESSAGES, conversation_text, is_conversation, read_messages
from ..tasks.records import FORMATS, read_table
from .examples import Example

PROMPT = "prompt"  # the column of the prompts, unless another one is named


@dataclass(frozen=True)
class Completion:
    """The completion of one prompt. tokens: drawn, and not overwritten after an EOS. steps: model calls of its row."""

    index: int
    row: Row
    text: str
    tokens: int
    steps: int


@dataclass
class Cost:
    """What all batches together took; see `Generation`."""

    forwards: int = 0
    row_forwards: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        speed = f"{self.tokens / max(1, self.row_forwards):.2f} tokens a row-forward, {self.seconds:.2f} s"
        return f"{self.forwards} forwards, {self.row_forwards} row-forwards, {speed}"


def read_prompts(path: Path, column: str = PROMPT) -> list[Row]:
    """The rows of a file, each with its prompt as `prompt`: .txt with a prompt a line, or a table with such a column.

    Raises:
        ValueError: no such file, another ending, no such column, or no prompt in the file or in a row.
    """
    if path.suffix.lower() == ".txt":
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"prompts {path} cannot be read: {error}") from error
        rows: list[Row] = [{PROMPT: line} for line in lines if line.strip()]
    elif path.suffix.lower() in FORMATS:
        rows = read_table(path)
        if rows and column not in rows[0]:
            raise ValueError(f"prompts {path} has no column {column!r}, got {', '.join(rows[0])}; name one by --column")
        rows = [_with_prompt(row, column, f"prompts {path}, row {number}") for number, row in enumerate(rows)]
    else:
        raise ValueError(f"prompts {path} must end in one of .txt, {', '.join(FORMATS)}")
    if not rows:
        raise ValueError(f"prompts {path} has no prompt")
    return rows


def _with_prompt(row: Row, column: str, where: str) -> Row:
    """The row with its prompt as the task `prompts` has it: as a text, and as messages if there are several."""
    try:
        messages = read_messages(row[column])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    others = {name: value for name, value in row.items() if name != column}
    several = {MESSAGES: messages} if is_conversation(row[column]) else {}
    return {PROMPT: conversation_text(messages), **several, **others}


def encode_rows(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], limit: int) -> list[Example]:
    """Each row with the token ids of its prompt. Raises ValueError for a prompt of more than `limit` tokens."""
    return [Example(index, row, encode_prompt(tokenizer, row, limit)) for index, row in enumerate(rows)]


def complete_in_order(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    config: GenerateConfig,
    cost: Cost,
) -> Iterator[Completion]:
    """The completions in the order of the prompts, each as soon as all before it are there; `cost` grows meanwhile.

    Prompts of one shape pass together, so a completion depends on (seed, prompt, index) alone.
    """
    device = next(model.parameters()).device
    shapes: dict[tuple[int, bool], list[Example]] = {}
    for example in examples:
        shapes.setdefault(example.shape, []).append(example)
    size = config.rollout_batch_size
    batches = [same[start : start + size] for same in shapes.values() for start in range(0, len(same), size)]
    ready: dict[int, Completion] = {}
    following = 0
    for batch in sorted(batches, key=lambda batch: batch[0].index):
        prompt_ids, prompt_mask = pad_left(tokenizer, [example.ids for example in batch], batch[0].width)
        result = generate(
            model,
            prompt_ids.to(device),
            config,
            attention_mask=prompt_mask.to(device),
            row_ids=torch.tensor([example.index for example in batch], device=device),
        )
        tokens = (result.order >= 0).sum(1).tolist()
        texts = decode_text(tokenizer, result.sequences[:, prompt_ids.shape[1] :])
        for example, text, count, steps in zip(batch, texts, tokens, result.steps.tolist(), strict=True):
            ready[example.index] = Completion(example.index, example.row, text, count, steps)
        cost.forwards += result.forwards
        cost.row_forwards += result.row_forwards
        cost.tokens += sum(tokens)
        cost.seconds += result.seconds
        while following in ready:
            yield ready.pop(following)
            following += 1


def as_line(completion: Completion) -> dict[str, Any]:
    """A completion as a line of JSON lines: the columns of its row, too, so that `dmpo eval --rescore` can score it."""
    own = {"index": completion.index, "completion": completion.text, "tokens": completion.tokens}
    return {**completion.row, **own, "steps": completion.steps}
