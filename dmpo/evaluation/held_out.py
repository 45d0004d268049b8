"""Accuracy of a policy on held-out rows of a task, sampled and greedy, with confidence intervals."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..config.keys import DMPOConfig
from ..distributed.ranks import together
from ..models.tokenizer import encode_prompts
from ..randomness import derive_key
from ..rollouts.drawn_rows import DrawnRows
from ..rollouts.rollout import complete
from ..tasks import Row, Task
from .attempts import Attempt, read_attempts
from .intervals import Accuracy


@dataclass(frozen=True)
class Evaluation:
    """Accuracies on the rows of one rank; `completions` are the greedy ones, in the order of `rows`.

    samples: of the first `log_completions` rows that this rank has, as held_out.jsonl says them, without the step.
    """

    sampled: Accuracy
    greedy: Accuracy
    rows: list[Row]
    completions: list[str]
    samples: list[dict[str, Any]] = field(default_factory=list)

    def lines(self, step: int) -> list[dict[str, Any]]:
        """The samples as lines of held_out.jsonl after a gradient step."""
        return [{"step": step, **sample} for sample in self.samples]

    def counts(self) -> dict[str, Any]:
        """The counts, as a checkpoint stores them; the task makes the rows again."""
        return {"sampled": vars(self.sampled), "greedy": vars(self.greedy), "completions": self.completions}

    @classmethod
    def from_counts(cls, counts: dict[str, Any], rows: list[Row]) -> Evaluation:
        """The inverse of `counts`."""
        return cls(Accuracy(**counts["sampled"]), Accuracy(**counts["greedy"]), rows, counts["completions"])


def evaluate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    config: DMPOConfig,
    *,
    split: str,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """Decode this rank's share of rows 0..eval_prompts-1 of a split, at eval_temperature and greedily.

    The rows and the draws do not depend on the run's seed, its batch sizes or its ranks, so accuracies of different
    runs are paired.
    """
    indices = list(range(rank, config.eval_prompts, world))
    rows = [task.row(split, index) for index in indices]
    prompt_ids, prompt_mask = encode_prompts(tokenizer, rows, config.max_prompt_length)
    prompt_ids, prompt_mask = prompt_ids.to(device), prompt_mask.to(device)
    attempts: dict[float, list[Attempt]] = {}
    for temperature in (config.eval_temperature, 0.0):
        generation = complete(
            model,
            prompt_ids,
            prompt_mask,
            torch.tensor(indices, device=device),
            config,
            temperature=temperature,
            steps=config.eval_decode_steps or config.steps,
            seed=derive_key(0, "evaluate", split),
        )
        attempts[temperature] = read_attempts(generation, tokenizer, task, rows)
    sampled, greedy = (
        Accuracy(sum(attempt.solved for attempt in attempts[t]), len(rows)) for t in (config.eval_temperature, 0.0)
    )
    # `generation` is the greedy one
    logged = DrawnRows.of(generation, [i for i, index in enumerate(indices) if index < config.log_completions])
    samples = [
        {"split": split, "index": indices[i], "prompt": rows[i]["prompt"]}
        | {"completion": attempts[0.0][i].completion, "solved": attempts[0.0][i].solved, **columns}
        for i, columns in zip(logged.rows, logged.columns(tokenizer), strict=True)
    ]
    return Evaluation(sampled, greedy, rows, [attempt.completion for attempt in attempts[0.0]], samples)


def evaluate_on_ranks(
    accelerator: Accelerator,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    config: DMPOConfig,
    *,
    split: str,
) -> Evaluation:
    """`evaluate` on all ranks: accuracies and samples over all rows, and the completions of this rank."""
    rank, world, device = accelerator.process_index, accelerator.num_processes, accelerator.device
    where: Any = {"split": split, "rank": rank, "world": world, "device": device}
    local = together(lambda: evaluate(model, tokenizer, task, config, **where))
    counts = torch.tensor([local.sampled.solved, local.greedy.solved], device=device)
    sampled, greedy = accelerator.reduce(counts, "sum").tolist()
    total = config.eval_prompts
    samples = sorted(gather_object(local.samples), key=lambda sample: sample["index"])  # a few short rows
    return dataclasses.replace(local, sampled=Accuracy(sampled, total), greedy=Accuracy(greedy, total), samples=samples)
