"""The completions of one generation: each is read, scored and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from ..decoding import Generation
from ..models.tokenizer import decode_text
from ..tasks import Row, Task
from ..tasks.verdict import judge, log_exceptions


@dataclass(frozen=True)
class Attempt:
    """One completion.

    solved, answer, failure: see `Verdict`. tokens: how many were drawn and not overwritten after an EOS. steps: model
    calls of its row.
    """

    completion: str
    solved: bool | None
    answer: str | None
    tokens: int
    steps: int
    failure: str | None


def read_attempts(
    generation: Generation, tokenizer: PreTrainedTokenizerBase, task: Task, rows: Sequence[Row]
) -> list[Attempt]:
    """An attempt for each row of a generation, whatever rows were decoded together."""
    length = generation.order.shape[1]
    texts = decode_text(tokenizer, generation.sequences[:, -length:])
    tokens = (generation.order >= 0).sum(1).tolist()
    verdicts = [judge(task, text, row) for text, row in zip(texts, rows, strict=True)]
    log_exceptions(task, verdicts)
    return [
        Attempt(text, verdict.solved, verdict.answer, count, steps, verdict.failure)
        for text, verdict, count, steps in zip(texts, verdicts, tokens, generation.steps.tolist(), strict=True)
    ]
