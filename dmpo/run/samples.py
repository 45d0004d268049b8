"""A few completions of every round with their rewards and weights, for people to read."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from ..config.keys import DMPOConfig
from ..models.tokenizer import decode_text
from ..objectives.gradient import group_weights
from ..rollouts.batch import Batch
from ..rollouts.rollout import training_row
from ..tasks import Task

_NOT_IN_TABLES = ("step", "tokens", "order", "log_probs")  # a tracker has the step, and a cell has no room for lists


def sample_table(
    batch: Batch, tokenizer: PreTrainedTokenizerBase, task: Task, config: DMPOConfig, *, step: int
) -> list[dict[str, Any]]:
    """A line for each completion of the newest round that the main rank logs; other ranks have none.

    step: the first gradient step of the round. row: the completion's id in the run; group: its prompt's. prompt,
    completion, reward. weight: of the loss. log_ratio: log p_cur - log p_ref, the ELBO on the same views, in nats.
    tokens: the text of each token, see `token_texts`. order: the decoding step at which a token was unmasked for good,
    -1 where it was not drawn but follows an EOS. log_probs: the log-probability of each token when it was drawn.
    rewards, failure: see `Scores.details`.
    """
    if batch.drawn is None:
        return []
    weights, _ = group_weights(batch, config)
    ratios = batch.log_prob_cur - batch.log_prob_ref
    of_groups = {"reward": batch.rewards, "weight": weights.positive, "log_ratio": ratios}
    numbers = {name: values.flatten().tolist() for name, values in of_groups.items()}
    all_ids = batch.row_ids.tolist()
    row_ids = [all_ids[place] for place in batch.drawn.rows]
    texts = decode_text(tokenizer, batch.drawn.tokens)
    table = []
    details = [{} if batch.scored is None else batch.scored.details(place) for place in batch.drawn.rows]
    for row, text, columns, of_rewards in zip(row_ids, texts, batch.drawn.columns(tokenizer), details, strict=True):
        group, place = row // config.num_generations, row % batch.rewards.numel()
        line = {"step": step, "row": row, "group": group, "prompt": training_row(task, config.seed, group)["prompt"]}
        values = {name: of_all[place] for name, of_all in numbers.items()}
        table.append({**line, "completion": text, **values, **columns, **of_rewards})
    return table


def send_table(accelerator: Accelerator, table: list[dict[str, Any]], step: int) -> None:
    """Send the rows to the trackers that take tables or text (wandb, tensorboard); others get numbers only."""
    if not accelerator.is_main_process or not table:
        return
    columns = [name for name in dict.fromkeys(name for row in table for name in row) if name not in _NOT_IN_TABLES]
    cells = [[row.get(name, "") for name in columns] for row in table]
    for tracker in accelerator.trackers:
        if tracker.name == "wandb":
            tracker.log_table("completions", columns=columns, data=cells, step=step)
        elif tracker.name == "tensorboard":
            lines = [columns, ["---"] * len(columns), *([_cell(value) for value in row] for row in cells)]
            tracker.writer.add_text("completions", "\n".join(f"| {' | '.join(line)} |" for line in lines), step)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
