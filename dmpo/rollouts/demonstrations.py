"""Demonstrations: rows of a task with the answer that the model is to learn, as token ids.

A pass has whole rows, prompt and answer together, padded on the left, so that answers of any lengths end in the same
column.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..config.sft import SFTConfig
from ..models.tokenizer import encode_prompt
from ..randomness import derive_key
from ..tasks import Row, Task, rows_of_evaluation, size_of


@dataclass(frozen=True)
class Demonstration:
    """Token ids of a prompt, and of an answer with one EOS at its end, unless the answer fills gen_length."""

    prompt: list[int]
    answer: list[int]


class Demonstrations:
    """The demonstrations of a task. Each row is encoded once.

    Raises, from every method:
        ValueError: a row has no answer, its answer or its prompt is too long, or it has the mask token. The message
            names split and row.
    """

    def __init__(
        self, task: Task, tokenizer: PreTrainedTokenizerBase, config: SFTConfig, *, mask_id: int, eos_id: int
    ) -> None:
        self.task, self.tokenizer, self.config = task, tokenizer, config
        self.mask_id, self.eos_id = mask_id, eos_id
        self._rows = size_of(task, "train")
        self._encoded: dict[tuple[str, int], Demonstration] = {}
        self._order: tuple[int, list[int]] = (-1, [])  # of the newest epoch

    def check(self, steps: int) -> None:
        """Encode all rows that a run of so many steps draws or evaluates."""
        drawn = self.config.batch_size * steps
        indices = range(self._rows) if self._rows is not None and drawn >= self._rows else self._indices(range(drawn))
        for index in indices:
            self.row("train", index)
        for split in ("validation", "test"):
            for index in range(rows_of_evaluation(self.task, split, self.config.eval_prompts)):
                self.row(split, index)

    def of_step(self, step: int) -> tuple[list[Demonstration], list[int]]:
        """The demonstrations of a gradient step over all ranks, and their numbers in the run."""
        first = step * self.config.batch_size
        numbers = range(first, first + self.config.batch_size)
        return [self.row("train", index) for index in self._indices(numbers)], list(numbers)

    def row(self, split: str, index: int) -> Demonstration:
        """The demonstration of one row."""
        key = (split, index)
        if key not in self._encoded:
            try:
                self._encoded[key] = self._encode(self.task.row(split, index))
            except ValueError as error:
                raise ValueError(f"{split} row {index}: {error}") from None
        return self._encoded[key]

    def _encode(self, row: Row) -> Demonstration:
        limit, prompt = self.config.gen_length, encode_prompt(self.tokenizer, row, self.config.max_prompt_length)
        text = answer_text(self.task, row)
        answer = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        if not 0 < len(answer) <= limit:
            raise ValueError(f"the answer has {len(answer)} tokens, must be 1 to gen_length {limit}: {text[:80]!r}")
        for what, ids in (("prompt", prompt), ("answer", answer)):
            if self.mask_id in ids:
                raise ValueError(f"the {what} has the mask token {self.mask_id}, which stands for what is unknown")
        return Demonstration(prompt, answer + [self.eos_id] * (len(answer) < limit))

    def _indices(self, numbers: Iterable[int]) -> Iterable[int]:
        """The rows of the train split that the run draws as these numbers: each once in an epoch, in a new order."""
        if self._rows is None:
            seed = self.config.seed
            return (derive_key(seed, "demonstration", number) for number in numbers)
        return (self._order_of(number // self._rows)[number % self._rows] for number in numbers)

    def _order_of(self, epoch: int) -> list[int]:
        assert self._rows is not None
        if self._order[0] != epoch:
            order = list(range(self._rows))
            Random(derive_key(self.config.seed, "epoch", epoch)).shuffle(order)
            self._order = epoch, order
        return self._order[1]


def answer_text(task: Task, row: Row) -> str:
    """The answer to learn, by `task.demonstrate`. Raises ValueError for a task or a row without one."""
    demonstrate: Any = getattr(task, "demonstrate", None)
    if demonstrate is None:
        raise ValueError(f"the task {type(task).__name__} has no answers to learn from: it needs a method demonstrate")
    text = demonstrate(row)
    if not isinstance(text, str) or not text:
        raise ValueError(f"there is no answer to learn from: demonstrate returned {text!r:.80}")
    return text


@dataclass(frozen=True)
class Sequences:
    """Rows to learn from, prompt and answer together, padded on the left.

    ids int64 [N, T], attended bool [N, T] (False on padding), answers bool [N, T] (tokens that may be masked),
    row_ids int64 [N], which name the masks of a row.
    """

    ids: Tensor
    attended: Tensor
    answers: Tensor
    row_ids: Tensor

    def __getitem__(self, rows: Tensor | slice) -> Sequences:
        return Sequences(self.ids[rows], self.attended[rows], self.answers[rows], self.row_ids[rows])

    def __len__(self) -> int:
        return len(self.ids)


def sequences(
    rows: Sequence[Demonstration], row_ids: Sequence[int], *, padding: str, length: int, eos_id: int
) -> Sequences:
    """Demonstrations side by side, their answers padded with EOS as the config key `eos_padding` says.

    length: tokens of an answer that is padded in full (`full`).
    """
    longest = {"batch": max(len(row.answer) for row in rows), "full": length, "none": 0}[padding]
    answers = [row.answer + [eos_id] * (longest - len(row.answer)) for row in rows]
    whole = [row.prompt + answer for row, answer in zip(rows, answers, strict=True)]
    width = max(map(len, whole))
    ids = torch.tensor([[eos_id] * (width - len(row)) + row for row in whole])
    column = torch.arange(width)
    attended = column >= width - torch.tensor([len(row) for row in whole]).unsqueeze(1)
    of_answer = column >= width - torch.tensor([len(answer) for answer in answers]).unsqueeze(1)
    return Sequences(ids, attended, of_answer, torch.tensor(row_ids))
