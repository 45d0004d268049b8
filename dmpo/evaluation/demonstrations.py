"""What supervised fine-tuning measures on held-out rows: the loss, and the accuracy where the task can judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..config.sft import SFTConfig
from ..distributed.ranks import rank_rows, summed, together
from ..models.masked_lm import without_dropout
from ..objectives.denoising import masked, passes, total
from ..randomness import derive_key
from ..rollouts.demonstrations import Demonstrations, sequences
from ..tasks import Row, Task, judges, rows_of_evaluation
from .held_out import Evaluation, evaluate_on_ranks


@dataclass(frozen=True)
class SFTEvaluation:
    """The loss of the rows of all ranks, on masks that are the same at every step and for every run of the config.

    answers: the decoded rows; None for a task that cannot say what is solved.
    """

    loss: float
    rows: int
    answers: Evaluation | None

    def lines(self, step: int) -> list[dict[str, Any]]:
        """As `Evaluation.lines`."""
        return [] if self.answers is None else self.answers.lines(step)

    def metrics(self) -> dict[str, float]:
        """held_out_loss, and the accuracies."""
        return {"held_out_loss": self.loss} | ({} if self.answers is None else self.answers.metrics())

    def facts(self) -> dict[str, Any]:
        """`metrics` with the intervals of the accuracies, and `rows`."""
        return self.metrics() | ({} if self.answers is None else self.answers.facts()) | {"rows": self.rows}

    def counts(self) -> dict[str, Any]:
        """What a checkpoint stores."""
        answers = None if self.answers is None else self.answers.counts()
        return {"loss": self.loss, "rows": self.rows, "answers": answers}

    @classmethod
    def from_counts(cls, counts: dict[str, Any], rows: list[Row]) -> SFTEvaluation:
        """The inverse of `counts`."""
        answers = counts["answers"]
        return cls(counts["loss"], counts["rows"], None if answers is None else Evaluation.from_counts(answers, rows))


def evaluate_demonstrations(
    accelerator: Accelerator,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    demonstrations: Demonstrations,
    config: SFTConfig,
    *,
    split: str,
) -> SFTEvaluation:
    """Loss of rows 0..eval_prompts-1 of a split; their accuracy as `evaluate_on_ranks`. All ranks call it together."""
    count, world = rows_of_evaluation(task, split, config.eval_prompts), accelerator.num_processes
    rows = [demonstrations.row(split, index) for index in range(count)]
    layout: Any = {"padding": config.eos_padding, "length": config.gen_length, "eos_id": demonstrations.eos_id}
    batch = masked(sequences(rows, range(count), **layout), derive_key(0, "held-out masks", split), config)
    own = batch[rank_rows(count, accelerator.process_index, world)]

    def local() -> float:
        every = passes(own, config, demonstrations.mask_id, rows=config.rollout_batch_size)
        with without_dropout(model):
            return total(model, every, accelerator.device)

    (loss,) = summed(accelerator, together(local))
    answers = evaluate_on_ranks(accelerator, model, tokenizer, task, config, split=split) if judges(task) else None
    return SFTEvaluation(loss, count, answers)
