"""Rollouts: prompts → completions, rewards, log-probabilities under the reference and the current policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..config.decoding import decoding_options
from ..config.keys import DMPOConfig
from ..config.run import RunConfig
from ..decoding import Generation, generate
from ..distributed.ranks import gather_named, gather_rows, rank_rows, summed_named, together
from ..distributed.sharding import whole_parameters
from ..models.masked_lm import special_ids
from ..models.tokenizer import decode_text, encode_prompts
from ..randomness import derive_key
from ..rewards import RewardPool, Scores
from ..rewards.round import RoundScoring
from ..tasks import Row, Task
from .batch import Batch, Completions, spaced
from .drawn_rows import DrawnRows, rows_to_log
from .dynamic_sampling import Draw, draw_index, host_indices, resample
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
    config: RunConfig,
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
    if not len(prompt_ids):
        return no_completions(prompt_ids, config.gen_length)
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


def no_completions(prompt_ids: Tensor, length: int) -> Generation:
    """What a rank decodes that has no prompts: no rows of `length` tokens, int64 prompt_ids [0, P]."""
    device, width = prompt_ids.device, prompt_ids.shape[1]
    return Generation(
        sequences=prompt_ids.new_zeros(0, width + length),
        forwards=0,
        row_forwards=0,
        seconds=0.0,
        log_probs=torch.zeros(0, length, device=device),
        order=torch.zeros(0, length, dtype=torch.int32, device=device),
        steps=torch.zeros(0, dtype=torch.int64, device=device),
        positions=0,
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
    device, group, total = accelerator.device, config.num_generations, config.rows_of_step
    own_groups = torch.arange(total, device=device)[_own(accelerator, total)] // group
    draw = partial(
        draw_groups,
        accelerator,
        model=model,
        tokenizer=tokenizer,
        task=task,
        reward=reward,
        config=config,
        clock=clock,
    )
    drawn = draw(draw_index(round_index, 0, config.draws_of_round), range(config.num_prompts))
    if config.resample_prompts:
        drawn = resample(
            accelerator,
            drawn,
            lambda attempt, groups: draw(draw_index(round_index, attempt, config.draws_of_round), groups),
            partial(_columns, accelerator),
            group_size=group,
            most=config.resample_prompts,
        )
    generation, outcome, tokens = drawn.generation, drawn.scored, drawn.tokens
    prompt_ids, prompt_mask = drawn.prompt_ids[own_groups], drawn.prompt_mask[own_groups]
    row_ids = drawn.row_ids[_own(accelerator, total)]
    with clock("score"):
        mask_id, eos_ids = special_ids(model)
        eligible = completion_mask(tokens, eos_ids if config.truncate_at_eos else ())
        completions = Completions(prompt_ids, prompt_mask, tokens, eligible)
        sample = spaced(len(tokens), config.rollout_batch_size, device)
        views = score_views(eligible[sample], row_ids[sample], config).masks[: len(sample)]
        to_score, paths = (completions, row_ids, config), dict[str, Tensor]()
        with whole_parameters(model) as policy, torch.no_grad():
            if config.decoder == "random_order":
                paths["path_log_prob_cur"] = path_log_prob(policy, completions, generation.order, config)
            log_prob_cur = paths["path_log_prob_cur"] if objective.on_path else score_log_prob(policy, *to_score)
            entropy = token_entropy(policy, completions[sample], views, mask_id=mask_id)
            scores = objective.score_round(policy, *to_score)
        with reference.active() as policy, torch.no_grad():
            if config.decoder == "random_order":
                paths["path_log_prob_ref"] = path_log_prob(policy, completions, generation.order, config)
            log_prob_ref = paths["path_log_prob_ref"] if objective.on_path else score_log_prob(policy, *to_score)
            scores = joined_scores(scores, objective.score_reference(policy, *to_score))
        of_rows = {
            "reward": torch.tensor(outcome.values, device=device),
            "log_prob_ref": log_prob_ref,
            "log_prob_cur": log_prob_cur,
            "rollout_mismatch": rollout_mismatch(generation, eligible, log_prob_cur),
            "row_hash": row_hash(tokens),
        }
        gathered = gather_named(accelerator, of_rows | paths | _of_parts(outcome, device), total)
        columns = gathered | {name: torch.cat([gathered[name], rows]) for name, rows in drawn.replaced.items()}
        counts: dict[str, float | Tensor] = {
            "forwards": generation.forwards,
            "row_forwards": generation.row_forwards,
            "positions": generation.positions,
            "drawn": drawn.drawn,
            "reward_failures": drawn.failures,
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
        report=round_report(columns, sums, group_size=group, world=accelerator.num_processes) | drawn.report(config),
        scores=scores,
        drawn_order=generation.order if objective.on_path or config.view_positions == "confidence" else None,
        drawn=DrawnRows.of(generation, logged) if logged and accelerator.is_main_process else None,
        scored=outcome,
    )


def draw_groups(
    accelerator: Accelerator,
    index: int,
    groups: Sequence[int],
    *,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    reward: RewardPool,
    config: DMPOConfig,
    clock: Clock,
) -> Draw:
    """Prompts, completions and rewards of these groups of draw `index`, whose prompts are num_prompts rows of the run.

    The completions are split over ranks in order. A rank may have none, where there are fewer completions than ranks.
    """
    device, group, count = accelerator.device, config.num_generations, len(groups) * config.num_generations
    rows = [training_row(task, config.seed, index * config.num_prompts + place) for place in groups]
    own = _own(accelerator, count)
    own_groups = [row // group for row in range(count)[own]]
    columns = {name: [rows[place][name] for place in own_groups] for name in rows[0]}
    first_rows = (index * config.num_prompts + host_indices(groups, device)) * group
    row_ids = (first_rows.unsqueeze(1) + torch.arange(group, device=device)).flatten()

    with RoundScoring(reward, own_groups, columns) as scoring:
        with clock("rollout"):
            encoded = encode_prompts(tokenizer, rows, config.max_prompt_length)
            prompt_ids, prompt_mask = (of_prompts.to(device) for of_prompts in encoded)  # [groups, P]
            of_rows = torch.arange(count, device=device)[own] // group
            with rollout_model(model, config) as policy:
                generation = complete(
                    policy,
                    prompt_ids[of_rows],
                    prompt_mask[of_rows],
                    row_ids[own],
                    config,
                    temperature=config.temperature,
                    steps=config.steps,
                    seed=derive_key(config.seed, "rollout"),
                    decoded=lambda *batch: _score_soon(scoring, tokenizer, *batch),
                )
            drawn = int((generation.order >= 0).sum())
        with clock("reward"):
            scored = together(scoring.scores)
    return Draw(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        row_ids=row_ids,
        generation=generation,
        scored=scored,
        drawn=drawn,
        failures=len({failure.row for failure in scored.failures}),
    )


def _own(accelerator: Accelerator, total: int) -> slice:
    return rank_rows(total, accelerator.process_index, accelerator.num_processes)


def _columns(accelerator: Accelerator, draw: Draw, scores: Scores) -> dict[str, Tensor]:
    """The columns of `round_report` that are known before a round is scored, float64 of all ranks' rows."""
    device = draw.row_ids.device
    hashes = gather_rows(accelerator, row_hash(draw.tokens), len(draw.row_ids))
    rewards = torch.tensor(scores.values, device=device)
    return {"reward": rewards.double(), "row_hash": hashes.double(), **_of_parts(scores, device)}


def _of_parts(scores: Scores, device: torch.device) -> dict[str, Tensor]:
    """The values of each of several rewards, float64 by the names of `round_report`."""
    return {
        name: torch.tensor(values, dtype=torch.float64, device=device)
        for name, values in reward_columns(scores).items()
    }


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
