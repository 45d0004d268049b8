"""The examples of a task: its first rows of a split, with solved rows before them, as token ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..models.tokenizer import encode_prompt
from ..randomness import derive_key
from ..tasks import Row, Task, size_of
from ..tasks.verdict import check_judges
from .keys import MOST_EXAMPLES, EvalConfig

_STEP = 16  # prompts are padded to a multiple of this, by their own length


@dataclass(frozen=True)
class Example:
    """One row with its prompt. Rows of the same `shape` may share a batch, and their numbers stay the same: the padding
    of a prompt, and whether attention needs a mask, do not depend on the other rows."""

    index: int
    row: Row
    ids: list[int]

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of the row, without its prompt, as they are in JSON."""
        own = {name: value for name, value in self.row.items() if name != "prompt"}
        columns: dict[str, Any] = json.loads(json.dumps(own, default=str))
        return columns

    @property
    def width(self) -> int:
        return -(-len(self.ids) // _STEP) * _STEP

    @property
    def shape(self) -> tuple[int, bool]:
        return self.width, len(self.ids) == self.width


@dataclass(frozen=True)
class TaskExamples:
    """A task, its examples, and the template and shots of their prompts."""

    name: str
    task: Task
    examples: list[Example]
    shots: list[tuple[str, str]]

    @property
    def template(self) -> str | None:
        """The task's prompt template; None for a user's task without one."""
        return getattr(self.task, "template", None)

    @property
    def template_hash(self) -> str:
        """blake2b, 16 hexadecimal digits, of template and shots."""
        text = json.dumps([self.template, self.shots])
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def prompt(self) -> dict[str, Any]:
        """Template and shots of every prompt, for the record."""
        shots = [list(shot) for shot in self.shots]
        return {"template": self.template, "template_hash": self.template_hash, "shots": shots}


def load_examples(
    name: str, task: Task, tokenizer: PreTrainedTokenizerBase, config: EvalConfig, limit: int
) -> TaskExamples:
    """The first `config.eval_prompts` rows of the split, each with the same shots.

    Raises:
        ValueError: a task that does not judge, a task without end and no eval_prompts, no rows, a prompt of more than
            `limit` tokens, or no worked solutions for shots.
    """
    check_judges(name, task)
    size = size_of(task, config.split)
    if size is None and config.eval_prompts is None:
        raise ValueError(f"task {name} has no last row: set eval_prompts=N")
    count = min(n for n in (size, config.eval_prompts) if n is not None)
    if not 1 <= count <= MOST_EXAMPLES:
        raise ValueError(f"task {name} has {count} rows of {config.split}, must be 1 to {MOST_EXAMPLES}")
    shots = draw_shots(name, task, config)
    examples = []
    for index in range(count):
        row = task.row(config.split, index)
        examples.append(Example(index, row, _encode(tokenizer, row, limit, shots, f"{name} {index}")))
    return TaskExamples(name, task, examples, shots)


def draw_shots(name: str, task: Task, config: EvalConfig) -> list[tuple[str, str]]:
    """`config.shots` different prompts of the train split with their solutions, drawn by the seed.

    Raises:
        ValueError: the task has no `demonstrate(row) -> str`, or too few rows.
    """
    if not config.shots:
        return []
    demonstrate = getattr(task, "demonstrate", None)
    if demonstrate is None:
        raise ValueError(f"shots must be 0 for task {name}, which has no demonstrate(row) -> str")
    size = size_of(task, "train")
    if size is None:
        indices: Sequence[int] = [derive_key(config.seed, "shots", name, j) for j in range(8 * config.shots)]
    else:
        indices = Random(derive_key(config.seed, "shots", name)).sample(range(size), size)
    shots: dict[str, str] = {}
    for index in indices:
        row = task.row("train", index)
        shots.setdefault(row["prompt"], demonstrate(row))
        if len(shots) == config.shots:
            return list(shots.items())
    raise ValueError(f"shots must be at most {len(shots)}, the different train prompts of task {name}")


def _encode(
    tokenizer: PreTrainedTokenizerBase, row: Row, limit: int, shots: list[tuple[str, str]], where: str
) -> list[int]:
    try:
        return encode_prompt(tokenizer, row, limit, shots)
    except ValueError as error:
        raise ValueError(f"example {where}: {error}") from None
