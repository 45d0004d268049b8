"""A few completions of every round with their rewards and weights, for people to read."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from ..config.keys import DMPOConfig
from ..models.tokenizer import decode_text
from ..objectives.gradient import group_weights
from ..rollouts.batch import Batch, spaced
from ..rollouts.rollout import training_row
from ..tasks import Task


def sample_table(
    batch: Batch, tokenizer: PreTrainedTokenizerBase, task: Task, config: DMPOConfig, *, step: int
) -> list[dict[str, Any]]:
    """`log_completions` rows of this rank, evenly spaced: step, row (its id), prompt, completion, reward, weight."""
    if not config.log_completions:
        return []
    weights, _ = group_weights(batch, config)
    rewards, positive, group = batch.rewards.flatten(), weights.positive.flatten(), config.num_generations
    chosen = spaced(len(batch.row_ids), config.log_completions, batch.row_ids.device)
    texts = decode_text(tokenizer, batch.completions.tokens[chosen])
    table = []
    for row, text in zip(batch.row_ids[chosen].tolist(), texts, strict=True):
        index = row % rewards.numel()
        line = {"step": step, "row": row, "prompt": training_row(task, config.seed, row // group)["prompt"]}
        table.append({**line, "completion": text, "reward": float(rewards[index]), "weight": float(positive[index])})
    return table


def send_table(accelerator: Accelerator, table: list[dict[str, Any]], step: int) -> None:
    """Send the rows to the trackers that take tables or text (wandb, tensorboard); others get numbers only."""
    if not accelerator.is_main_process or not table:
        return
    columns = [name for name in table[0] if name != "step"]
    cells = [[row[name] for name in columns] for row in table]
    for tracker in accelerator.trackers:
        if tracker.name == "wandb":
            tracker.log_table("completions", columns=columns, data=cells, step=step)
        elif tracker.name == "tensorboard":
            lines = [columns, ["---"] * len(columns), *([_cell(value) for value in row] for row in cells)]
            tracker.writer.add_text("completions", "\n".join(f"| {' | '.join(line)} |" for line in lines), step)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
