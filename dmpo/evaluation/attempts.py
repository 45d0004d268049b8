"""What a model made of rows of a task: each completion read, scored, and what it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from ..decoding import Generation
from ..prompts import decode_text
from ..rewards.mathematics import failures
from ..tasks import Row, Task


@dataclass(frozen=True)
class Attempt:
    """One completion. tokens: drawn and kept; steps: model calls that its row took part in; failure: timeout or crash
    where the comparison of its answer with the right one came to no end, which counts as not solved."""

    completion: str
    solved: bool
    tokens: int
    steps: int
    failure: str | None


def read_attempts(
    generation: Generation, tokenizer: PreTrainedTokenizerBase, task: Task, rows: Sequence[Row]
) -> list[Attempt]:
    """An attempt for each row of a generation. None of it depends on which rows were decoded together."""
    length = generation.order.shape[1]
    texts = decode_text(tokenizer, generation.sequences[:, -length:])
    tokens = (generation.order >= 0).sum(1).tolist()
    verdicts = [judge(task, text, row) for text, row in zip(texts, rows, strict=True)]
    return [
        Attempt(text, solved, count, steps, failure)
        for text, (solved, failure), count, steps in zip(
            texts, verdicts, tokens, generation.steps.tolist(), strict=True
        )
    ]


def judge(task: Task, completion: str, row: Row) -> tuple[bool, str | None]:
    """Whether a completion is right, and what kept that from being found out, if anything did."""
    with failures() as found:
        solved = bool(task.solved(completion, row))
    return solved, found[0].kind if found else None
