"""Rollouts: prompts → completions, rewards, log-probabilities under the reference and the current policy."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from .batch import Batch
from .config import DMPOConfig, decoding_options
from .decoding import Generation, generate
from .likelihood import Completions, ordered_log_probs, sequence_log_prob, spaced, token_entropy
from .masked_lm import special_ids
from .masking import completion_mask, sample_views
from .metrics import round_report
from .objectives.one_step import round_log_probs
from .parallel import gather_rows, rank_rows, summed, together
from .policy import ReferencePolicy
from .prompts import decode_text, encode_prompts
from .randomness import derive_key
from .rewards import RewardPool
from .sharding import whole_parameters
from .tasks import Row, Task

Clock = Callable[[str], AbstractContextManager[None]]  # times the phase of that name


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
) -> Generation:
    """Completions of all prompts, in batches of at most `rollout_batch_size` rows; counts and seconds are summed."""
    options = decoding_options(config, temperature=temperature, steps=steps, seed=seed)
    parts = []
    for start in range(0, len(prompt_ids), config.rollout_batch_size):
        rows = slice(start, start + config.rollout_batch_size)
        parts.append(
            generate(model, prompt_ids[rows], options, attention_mask=prompt_mask[rows], row_ids=row_ids[rows])
        )
    return Generation(
        torch.cat([part.sequences for part in parts]),
        sum(part.forwards for part in parts),
        sum(part.row_forwards for part in parts),
        sum(part.seconds for part in parts),
        torch.cat([part.log_probs for part in parts]),
        torch.cat([part.order for part in parts]),
        torch.cat([part.steps for part in parts]),
    )


def collect(
    accelerator: Accelerator,
    model: nn.Module,
    reference: ReferencePolicy,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    reward: RewardPool,
    config: DMPOConfig,
    *,
    round_index: int,
    clock: Clock,
) -> Batch:
    """One round of rollouts. Draws depend on (seed, prompt, completion), not on ranks or batches.

    Completions are split over ranks in order, so a group may span several; a wrong reward on one rank stops all.
    `model` is the policy as accelerate prepared it.
    """
    device, group, total = accelerator.device, config.num_generations, config.num_prompts * config.num_generations
    share = rank_rows(total, accelerator.process_index, accelerator.num_processes)
    prompts = [round_index * config.num_prompts + j for j in range(config.num_prompts)]
    rows = [training_row(task, config.seed, index) for index in prompts]
    place = torch.arange(total, device=device)[share]
    row_ids = round_index * total + place

    with clock("rollout"):
        prompt_ids, prompt_mask = encode_prompts(tokenizer, rows, config.max_prompt_length)
        prompt_ids, prompt_mask = (part.to(device)[place // group] for part in (prompt_ids, prompt_mask))  # [B, P]
        with whole_parameters(model) as policy:
            generation = complete(
                policy,
                prompt_ids,
                prompt_mask,
                row_ids,
                config,
                temperature=config.temperature,
                steps=config.steps,
                seed=derive_key(config.seed, "rollout"),
            )
        tokens = generation.sequences[:, prompt_ids.shape[1] :]
        drawn = int((generation.order >= 0).sum())  # on a GPU the clock waits here for the last kernel
    with clock("reward"):
        local = [rows[index // group] for index in range(total)[share]]
        columns = {name: [row[name] for row in local] for name in rows[0]}
        scores = together(lambda: reward.score(decode_text(tokenizer, tokens), columns))
        rewards = torch.tensor(scores.values, device=device)
    with clock("score"):
        mask_id, eos_ids = special_ids(model)
        eligible = completion_mask(tokens, eos_ids if config.truncate_at_eos else ())
        completions = Completions(prompt_ids, prompt_mask, tokens, eligible)

        def path_log_prob(policy: nn.Module) -> list[Tensor]:
            """Exact log-probabilities of the path, where that is a likelihood of its own."""
            if config.decoder != "random_order":
                return []
            size = config.rollout_batch_size
            return [ordered_log_probs(policy, completions, generation.order, mask_id=mask_id, batch_size=size).sum(-1)]

        sample = spaced(len(tokens), config.rollout_batch_size, device)
        views = _score_views(eligible[sample], row_ids[sample], config)[: len(sample)]
        with whole_parameters(model) as policy:
            log_prob_cur, paths = score_log_prob(policy, completions, row_ids, config), path_log_prob(policy)
            entropy = token_entropy(policy, completions[sample], views, mask_id=mask_id)
            one_step_cur = round_log_probs(policy, completions, row_ids, config)
        with reference.active() as policy:
            log_prob_ref = score_log_prob(policy, completions, row_ids, config)
            paths += path_log_prob(policy)
            one_step_ref = round_log_probs(policy, completions, row_ids, config) if config.kl_beta else None
        own = [rewards, log_prob_ref, log_prob_cur, rollout_mismatch(generation, eligible, log_prob_cur)]
        values = torch.stack([value.double() for value in [*own, _fingerprint(tokens), *paths]], -1)
        values = gather_rows(accelerator, values, total).view(-1, group, values.shape[1])
        counts = (generation.forwards, generation.row_forwards, drawn, len(scores.failures))
        sums = summed(accelerator, *counts, entropy)
    shared_rewards, shared_ref, shared_cur = values[..., :3].to(log_prob_cur.dtype).unbind(-1)
    return Batch(
        completions,
        row_ids,
        shared_rewards,
        shared_ref,
        shared_cur,
        torch.zeros(config.num_prompts, dtype=torch.int64, device=device),
        round_report(values, sums, accelerator.num_processes),
        one_step_cur,
        one_step_ref,
    )


def score_log_prob(model: nn.Module, completions: Completions, row_ids: Tensor, config: DMPOConfig) -> Tensor:
    """ELBO of completions [B] on K views that depend on their row ids alone: the same ones for every policy."""
    mask_id, _ = special_ids(model)
    views, size = _score_views(completions.eligible, row_ids, config), config.rollout_batch_size
    return sequence_log_prob(model, completions, views, mask_id=mask_id, batch_size=size)


def _score_views(eligible: Tensor, row_ids: Tensor, config: DMPOConfig) -> Tensor:
    return sample_views(
        eligible,
        config.score_views,
        key=derive_key(config.seed, "score"),
        row_ids=row_ids,
        rate_range=(config.mask_rate_min, config.mask_rate_max),
        antithetic=config.antithetic,
    )


def _fingerprint(tokens: Tensor) -> Tensor:
    """A number [B] that differs, but for a chance of 2^-52, where rows of tokens [B, L] do; exact in float64."""
    factors = torch.tensor([derive_key(i) | 1 for i in range(tokens.shape[1])], device=tokens.device)
    return (tokens * factors).sum(-1) >> 12


def rollout_mismatch(generation: Generation, eligible: Tensor, log_prob_cur: Tensor) -> Tensor:
    """How much likelier the decoder found its tokens, in its order, than training's ELBO does; nats a token, [B].

    The mean recorded log-probability of the drawn tokens that count, minus the ELBO per token that counts. Taking the
    most confident tokens first gives a value above 0 without any fault (topk); what a parallel, cached or guided one
    adds to that of topk is its drift from the likelihood that training uses. With early_stop and without
    truncate_at_eos the ELBO also counts the EOS that fill a row, which are nearly certain: the gauge is then lower for
    shorter completions.
    """
    counted = (generation.order >= 0) & eligible
    recorded = (generation.log_probs * counted).sum(-1) / counted.sum(-1)
    return recorded - log_prob_cur / eligible.sum(-1)


def training_row(task: Task, seed: int, index: int) -> Row:
    """The index-th prompt of a run; another seed sees other rows."""
    return task.row("train", derive_key(seed, "prompt", index))
