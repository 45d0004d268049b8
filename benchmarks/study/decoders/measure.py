"""One point of a curve: held-out rows are decoded in batches, and judged."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dmpo import DMPOConfig, generate, load_model, load_tokenizer
from dmpo.models.masked_lm import special_ids
from dmpo.models.tokenizer import decode_text, encode_prompts
from dmpo.rollouts.batch import Completions
from dmpo.rollouts.masking import completion_mask
from dmpo.rollouts.scoring import rollout_mismatch, score_log_prob
from dmpo.tasks import Task, load_task, rows_of_evaluation
from dmpo.tasks.verdict import judge

from .curves import Point, options_of

Record = dict[str, Any]


@dataclass
class Subject:
    """A model on the held-out rows of a task, as a training config names them; loaded when it is first used.

    rows: so many test rows at most. alone: so many of them, one row a batch, too. scored: of so many the mismatch.
    """

    config: DMPOConfig
    device: str
    rows: int
    alone: int
    scored: int

    @cached_property
    def task(self) -> Task:
        return load_task(self.config.task, **self.config.task_options)

    @cached_property
    def model(self) -> Any:
        dtype = getattr(torch, self.config.dtype)
        ids: dict[str, Any] = {"mask_id": self.config.mask_id, "eos_id": self.config.eos_id}
        attention = self.config.attn_implementation
        model = load_model(self.config.model, dtype=dtype, device=self.device, attn_implementation=attention, **ids)
        return model.eval().requires_grad_(False)

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.config.model)

    @cached_property
    def problems(self) -> list[dict[str, Any]]:
        return [self.task.row("test", index) for index in range(rows_of_evaluation(self.task, "test", self.rows))]

    @cached_property
    def different(self) -> list[int]:
        """The numbers of the rows whose prompt no earlier row has.

        A repeated row is solved as often as the first one at temperature 0. It would count twice, and the intervals
        would be too narrow.
        """
        return sorted({str(row["prompt"]): number for number, row in reversed([*enumerate(self.problems)])}.values())

    @cached_property
    def prompts(self) -> tuple[Tensor, Tensor]:
        prompts, mask = encode_prompts(self.tokenizer, self.problems, self.config.max_prompt_length)
        return prompts.to(self.device), mask.to(self.device)


def of_different_rows(record: Record, subject: Subject) -> Record:
    """The record with the verdicts of rows with different prompts alone. The counts stay those of all rows.

    rows: of all rows how many were decoded.

    Raises:
        ValueError: the record is of another number of rows than the subject has.
    """
    decoded, wanted = len(record["solved"]), len(subject.problems)
    if record["batch"] == 1:
        wanted = min(wanted, subject.alone)
    if decoded != wanted:
        name = f"{record['curve']} {record['value']:g}, batch {record['batch']}"
        raise ValueError(f"the record of {record['task']}, {name}, has {decoded} rows, not {wanted}: give --again")
    solved = "".join(record["solved"][number] for number in subject.different if number < decoded)
    return record | {"solved": solved, "rows": decoded}


def measure(subject: Subject, point: Point, batch: int, temperature: float) -> Record:
    """Decode the rows of the subject, `batch` at a time; a record.

    solved: a 1 or a 0 for each row. forwards, row_forwards, positions, tokens, seconds: sums; see `Generation`.
    mismatch: above temperature 0, `rollout_mismatch` of the first rows, nats a token.
    """
    options = options_of(point, subject.config, temperature)
    prompts, mask = subject.prompts
    count = min(len(prompts), subject.alone if batch == 1 else len(prompts))
    sums = dict.fromkeys(("forwards", "row_forwards", "positions", "tokens"), 0)
    seconds, solved, mismatches = 0.0, [], []
    for start in range(0, count, batch):
        rows = slice(start, min(start + batch, count))
        row_ids = torch.arange(rows.start, rows.stop, device=prompts.device)
        made = generate(subject.model, prompts[rows], options, attention_mask=mask[rows], row_ids=row_ids)
        completions = made.sequences[:, prompts.shape[1] :]
        of_rows = subject.problems[rows]
        texts = decode_text(subject.tokenizer, completions)
        solved += [judge(subject.task, text, row).solved for text, row in zip(texts, of_rows, strict=True)]
        sums["tokens"] += int((made.order >= 0).sum())
        for name in ("forwards", "row_forwards", "positions"):
            sums[name] += getattr(made, name)
        seconds += made.seconds
        if temperature and start < subject.scored:
            _, eos_ids = special_ids(subject.model)
            eligible = completion_mask(completions, eos_ids if subject.config.truncate_at_eos else ())
            drawn = Completions(prompts[rows], mask[rows], completions, eligible)
            with torch.no_grad():
                likelihood = score_log_prob(subject.model, drawn, row_ids, subject.config)
            mismatches += rollout_mismatch(made, eligible, likelihood).tolist()
    return {
        "task": subject.config.task,
        "model": subject.config.model,
        "curve": point.curve,
        "value": point.value,
        "batch": batch,
        "temperature": temperature,
        "solved": "".join("1" if one else "0" for one in solved),
        **sums,
        "seconds": round(seconds, 3),
        "mismatch": [round(value, 6) for value in mismatches],
    }
