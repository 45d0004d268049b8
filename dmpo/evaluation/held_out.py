"""Accuracy of a policy on held-out rows of a task, sampled and greedy, with confidence intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..config.run import RunConfig
from ..distributed.ranks import together
from ..models.tokenizer import encode_prompts
from ..randomness import derive_key
from ..rewards import RewardPool
from ..rollouts.drawn_rows import DrawnRows
from ..rollouts.rollout import complete
from ..tasks import Row, Task, judges, rows_of_evaluation
from .attempts import Attempt, read_attempts
from .intervals import Accuracy, MeanReward


@dataclass(frozen=True)
class Evaluation:
    """Accuracies on the rows of one rank; `completions` are the greedy ones, in the order of `rows`.

    In place of accuracies, a task that cannot say what is solved has mean rewards.

    samples: of the first `log_completions` rows that this rank has, as held_out.jsonl says them, without the step.
    """

    sampled: Accuracy | MeanReward
    greedy: Accuracy | MeanReward
    rows: list[Row]
    completions: list[str]
    samples: list[dict[str, Any]] = field(default_factory=list)

    def lines(self, step: int) -> list[dict[str, Any]]:
        """The samples as lines of held_out.jsonl after a gradient step."""
        return [{"step": step, **sample} for sample in self.samples]

    def metrics(self) -> dict[str, float]:
        """sampled_accuracy and greedy_accuracy, or sampled_reward and greedy_reward."""
        measures = {"sampled": self.sampled, "greedy": self.greedy}
        return {f"{name}_{measure.NAME}": measure.mean for name, measure in measures.items()}

    def facts(self) -> dict[str, Any]:
        """`metrics`, the 95 % interval of each as "NAME_interval", and `rows`, the number of rows on all ranks."""
        measures = {"sampled": self.sampled, "greedy": self.greedy}
        intervals = {f"{name}_{one.NAME}_interval": list(one.interval()) for name, one in measures.items()}
        return {**self.metrics(), **intervals, "rows": self.sampled.total}

    def counts(self) -> dict[str, Any]:
        """The counts, as a checkpoint stores them; the task makes the rows again."""
        return {"sampled": vars(self.sampled), "greedy": vars(self.greedy), "completions": self.completions}

    @classmethod
    def from_counts(cls, counts: dict[str, Any], rows: list[Row]) -> Evaluation:
        """The inverse of `counts`."""
        sampled, greedy = (
            Accuracy(**fields) if "solved" in fields else MeanReward(**fields)
            for fields in (counts["sampled"], counts["greedy"])
        )
        return cls(sampled, greedy, rows, counts["completions"])


def evaluate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    config: RunConfig,
    reward: RewardPool | None = None,
    *,
    split: str,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """Decode this rank's share of rows 0..eval_prompts-1 of a split, at eval_temperature and greedily. A split with
    fewer rows is decoded whole.

    The rows and the draws do not depend on the run's seed, its batch sizes or its ranks, so accuracies of different
    runs are paired.

    Args:
        reward: gives the mean reward of a task that cannot say what is solved; not called for other tasks.

    Raises:
        ValueError: there is no reward for such a task, or the reward returns no numbers.
    """
    indices = list(range(rank, rows_of_evaluation(task, split, config.eval_prompts), world))
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
    rewards = {t: None if judges(task) else _rewards(of_t, rows, reward) for t, of_t in attempts.items()}
    sampled, greedy = (_measure(attempts[t], rewards[t]) for t in (config.eval_temperature, 0.0))
    # `generation` is the greedy one
    logged = DrawnRows.of(generation, [i for i, index in enumerate(indices) if index < config.log_completions])
    samples = [
        {"split": split, "index": indices[i], "prompt": rows[i]["prompt"]}
        | {"completion": attempts[0.0][i].completion, "solved": attempts[0.0][i].solved}
        | ({} if rewards[0.0] is None else {"reward": rewards[0.0][i]})
        | columns
        for i, columns in zip(logged.rows, logged.columns(tokenizer), strict=True)
    ]
    return Evaluation(sampled, greedy, rows, [attempt.completion for attempt in attempts[0.0]], samples)


def _rewards(attempts: Sequence[Attempt], rows: list[Row], reward: RewardPool | None) -> list[float]:
    if reward is None:
        raise ValueError("the task cannot say what is solved, so its evaluation needs a reward")
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return reward.score([attempt.completion for attempt in attempts], columns).values


def _measure(attempts: Sequence[Attempt], rewards: list[float] | None) -> Accuracy | MeanReward:
    if rewards is not None:
        return MeanReward.of(rewards)
    return Accuracy(sum(bool(attempt.solved) for attempt in attempts), len(attempts))


def evaluate_on_ranks(
    accelerator: Accelerator,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    config: RunConfig,
    reward: RewardPool | None = None,
    *,
    split: str,
) -> Evaluation:
    """`evaluate` on all ranks: accuracies or mean rewards and samples over all rows, completions of this rank."""
    rank, world, device = accelerator.process_index, accelerator.num_processes, accelerator.device
    where: Any = {"split": split, "rank": rank, "world": world, "device": device}
    local = together(lambda: evaluate(model, tokenizer, task, config, reward, **where))
    kind, counts = type(local.sampled), [[*vars(measure).values()] for measure in (local.sampled, local.greedy)]
    sums = accelerator.reduce(torch.tensor(counts, dtype=torch.float64, device=device), "sum").tolist()
    sampled, greedy = (kind.from_sums(*of_measure) for of_measure in sums)
    samples = sorted(gather_object(local.samples), key=lambda sample: sample["index"])  # a few short rows
    return dataclasses.replace(local, sampled=sampled, greedy=greedy, samples=samples)
