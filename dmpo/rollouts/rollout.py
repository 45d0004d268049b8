"""Rollouts: prompts → completions, rewards, log-probabilities under the reference and the current policy."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..config.decoding import decoding_options
from ..config.keys import DMPOConfig
from ..decoding import Generation, generate
from ..distributed.ranks import gather_named, rank_rows, summed_named, together
from ..distributed.sharding import whole_parameters
from ..models.masked_lm import special_ids
from ..models.tokenizer import decode_text, encode_prompts
from ..randomness import derive_key
from ..rewards import RewardPool
from ..rewards.round import RoundScoring
from ..tasks import Row, Task
from .batch import Batch, Completions, spaced
from .drawn_rows import DrawnRows, rows_to_log
from .likelihood import token_entropy
from .masking import completion_mask
from .metrics import reward_columns, round_report
from .policy import ReferencePolicy, rollout_model
from .scoring import (
    RoundScorer,
    joined_scores,
    path_log_prob,
    rollout_mismatch,
    row_hash,
    score_log_prob,
    score_views,
)

Clock = Callable[[str], AbstractContextManager[None]]  # times the phase of that name
Decoded = Callable[[Tensor, Tensor], None]  # takes rows, int64 [n], and their completions, int64 [n, L]


def complete(
    model: nn.Module,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    row_ids: Tensor,
    config: DMPOConfig,
    *,
    temperature: float,
    steps: int,
    seed: int,
    decoded: Decoded | None = None,
) -> Generation:
    """Completions of all prompts, in batches of at most `rollout_batch_size` rows; counts and seconds are summed.

    A batch has prompts of like length, because its passes are as wide as its longest prompt. Rows of one prompt that
    stand side by side stay side by side. The first batch has the longest prompts and needs the most memory. The result
    has the order of the prompts.

    Args:
        decoded: called with the rows of each batch as soon as they are decoded.
    """
    options = decoding_options(config, temperature=temperature, steps=steps, seed=seed)
    order, batches = prompt_mask.sum(1).argsort(descending=True, stable=True), []
    for rows in order.split(config.rollout_batch_size):
        batch = generate(model, prompt_ids[rows], options, attention_mask=prompt_mask[rows], row_ids=row_ids[rows])
        batches.append(batch)
        if decoded is not None:
            decoded(rows, batch.sequences[:, prompt_ids.shape[1] :])
    back = order.argsort()
    return Generation(
        sequences=torch.cat([batch.sequences for batch in batches])[back],
        forwards=sum(batch.forwards for batch in batches),
        row_forwards=sum(batch.row_forwards for batch in batches),
        seconds=sum(batch.seconds for batch in batches),
        log_probs=torch.cat([batch.log_probs for batch in batches])[back],
        order=torch.cat([batch.order for batch in batches])[back],
        steps=torch.cat([batch.steps for batch in batches])[back],
        positions=sum(batch.positions for batch in batches),
    )


def collect(
    accelerator: Accelerator,
    *,
    model: nn.Module,
    reference: ReferencePolicy,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    reward: RewardPool,
    objective: RoundScorer,
    config: DMPOConfig,
    round_index: int,
    clock: Clock,
) -> Batch:
    """One round of rollouts. Draws depend on (seed, prompt, completion), not on ranks or batches.

    Completions are split over ranks in order, so a group may span several ranks; a wrong reward on one rank stops all.
    A thread scores the groups of a batch while the next batch is decoded; the phase "reward" is the wait for the last.

    Args:
        model: the policy as accelerate prepared it.
        objective: may ask for scores of its own.
        round_index: rounds before this one.
    """
    device, group, total = accelerator.device, config.num_generations, config.num_prompts * config.num_generations
    own = rank_rows(total, accelerator.process_index, accelerator.num_processes)
    rows = [training_row(task, config.seed, round_index * config.num_prompts + j) for j in range(config.num_prompts)]
    own_indices = torch.arange(total, device=device)[own]
    row_ids = round_index * total + own_indices

    own_rows = [rows[index // group] for index in range(total)[own]]
    columns = {name: [row[name] for row in own_rows] for name in rows[0]}

    with RoundScoring(reward, [index // group for index in range(total)[own]], columns) as scoring:
        with clock("rollout"):
            encoded = encode_prompts(tokenizer, rows, config.max_prompt_length)
            prompt_ids, prompt_mask = (of_prompts.to(device)[own_indices // group] for of_prompts in encoded)  # [B, P]
            with rollout_model(model, config) as policy:
                generation = complete(
                    policy,
                    prompt_ids,
                    prompt_mask,
                    row_ids,
                    config,
                    temperature=config.temperature,
                    steps=config.steps,
                    seed=derive_key(config.seed, "rollout"),
                    decoded=lambda *batch: _score_soon(scoring, tokenizer, *batch),
                )
            tokens = generation.sequences[:, prompt_ids.shape[1] :]
            drawn = int((generation.order >= 0).sum())
        with clock("reward"):
            outcome = together(scoring.scores)
            rewards = torch.tensor(outcome.values, device=device)
    with clock("score"):
        mask_id, eos_ids = special_ids(model)
        eligible = completion_mask(tokens, eos_ids if config.truncate_at_eos else ())
        completions = Completions(prompt_ids, prompt_mask, tokens, eligible)
        sample = spaced(len(tokens), config.rollout_batch_size, device)
        views = score_views(eligible[sample], row_ids[sample], config)[: len(sample)]
        to_score = (completions, row_ids, config)
        with whole_parameters(model) as policy, torch.no_grad():
            log_prob_cur = score_log_prob(policy, *to_score)
            paths = path_log_prob(policy, completions, generation.order, config, "path_log_prob_cur")
            entropy = token_entropy(policy, completions[sample], views, mask_id=mask_id)
            scores = objective.score_round(policy, *to_score)
        with reference.active() as policy, torch.no_grad():
            log_prob_ref = score_log_prob(policy, *to_score)
            paths |= path_log_prob(policy, completions, generation.order, config, "path_log_prob_ref")
            scores = joined_scores(scores, objective.score_reference(policy, *to_score))
        of_rows = {
            "reward": rewards,
            "log_prob_ref": log_prob_ref,
            "log_prob_cur": log_prob_cur,
            "rollout_mismatch": rollout_mismatch(generation, eligible, log_prob_cur),
            "row_hash": row_hash(tokens),
        }
        parts = {
            name: torch.tensor(values, dtype=torch.float64, device=device)
            for name, values in reward_columns(outcome).items()
        }
        gathered = gather_named(accelerator, of_rows | paths | parts, total)
        counts: dict[str, float | Tensor] = {
            "forwards": generation.forwards,
            "row_forwards": generation.row_forwards,
            "drawn": drawn,
            "reward_failures": len({failure.row for failure in outcome.failures}),
            "entropy": entropy,
        }
        sums = summed_named(accelerator, counts)
    logged = rows_to_log(len(tokens), group, config.log_completions, round_index)
    shared = {name: gathered[name].view(-1, group).to(log_prob_cur.dtype) for name in ("log_prob_ref", "log_prob_cur")}
    return Batch(
        completions=completions,
        row_ids=row_ids,
        rewards=gathered["reward"].view(-1, group).to(log_prob_cur.dtype),
        **shared,
        age=torch.zeros(config.num_prompts, dtype=torch.int64, device=device),
        report=round_report(gathered, sums, group_size=group, world=accelerator.num_processes),
        scores=scores,
        drawn=DrawnRows.of(generation, logged) if logged and accelerator.is_main_process else None,
        scored=outcome,
    )


def _score_soon(scoring: RoundScoring, tokenizer: PreTrainedTokenizerBase, rows: Tensor, tokens: Tensor) -> None:
    """Give the reward's thread a batch. It gets host tensors: a thread that waits for the device would end a capture
    of a CUDA graph."""
    device, host_rows, host_tokens = tokens.device, rows.tolist(), tokens.cpu()

    def read() -> list[str]:
        if device.type == "cuda" and device.index:  # each new thread begins on device 0; a reward may use the device
            torch.cuda.set_device(device)
        return decode_text(tokenizer, host_tokens)

    scoring.add(host_rows, read)


def training_row(task: Task, seed: int, index: int) -> Row:
    """The index-th prompt of a run; another seed sees other rows."""
    return task.row("train", derive_key(seed, "prompt", index))
