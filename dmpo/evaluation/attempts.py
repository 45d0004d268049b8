"""What a model made of rows of a task: each completion read, scored, and what it took."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from ..decoding import Generation
from ..prompts import decode_text
from ..rewards.mathematics import failures
from ..tasks import Row, Task, answer_of

log = logging.getLogger("dmpo")


class Verdict(NamedTuple):
    """What a task says of a completion. failure: `timeout` or `crash` where the comparison of its answer with the right
    one came to no end, `exception` where the task itself raised; it counts as not solved. message: of an exception."""

    solved: bool
    answer: str | None
    failure: str | None = None
    message: str = ""


@dataclass(frozen=True)
class Attempt:
    """One completion. solved, answer, failure: see `Verdict`. tokens: drawn and kept; steps: model calls that its row
    took part in."""

    completion: str
    solved: bool
    answer: str | None
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
    tell_exceptions(task, verdicts)
    return [
        Attempt(text, verdict.solved, verdict.answer, count, steps, verdict.failure)
        for text, verdict, count, steps in zip(texts, verdicts, tokens, generation.steps.tolist(), strict=True)
    ]


def judge(task: Task, completion: str, row: Row) -> Verdict:
    """What a completion answers and whether it is right, or what kept that from being found out."""
    try:
        with failures() as found:
            solved = bool(task.solved(completion, row))
        answer = answer_of(task, completion, row)
    except Exception as error:  # whatever a task makes of one text, the evaluation goes on
        return Verdict(False, None, "exception", f"{type(error).__name__}: {error}"[:500])
    return Verdict(solved, answer, found[0].kind if found else None)


def tell_exceptions(task: Task, verdicts: Sequence[Verdict]) -> None:
    """One line of the log on the completions that a task raised on, if it did on any."""
    raised = [verdict.message for verdict in verdicts if verdict.failure == "exception"]
    if raised:
        log.warning(
            "task %s raised on %d of %d completions, which count as wrong; the first: %s",
            *(type(task).__name__, len(raised), len(verdicts), raised[0]),
        )
