"""Rollouts: prompts → completions, rewards, log-probabilities under the reference and the current policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from .config import DMPOConfig
from .decoding import generate
from .likelihood import Completions, sequence_log_prob, spaced, token_entropy
from .masked_lm import special_ids
from .masking import completion_mask, sample_views
from .policy import ReferencePolicy
from .randomness import derive_key
from .rewards import Reward, score
from .tasks import Row, Task

Clock = Callable[[str], AbstractContextManager[None]]  # times the phase of that name


@dataclass(frozen=True)
class Rollouts:
    """One round on this rank: B = prompts · G completions, those of one prompt side by side.

    row_ids int64 [B] identify each completion across rounds and ranks; rewards, log_prob_ref and log_prob_cur are
    float32 [B]; entropy is the policy's mean token entropy in nats on views of these completions.
    """

    completions: Completions
    row_ids: Tensor
    rewards: Tensor
    log_prob_ref: Tensor
    log_prob_cur: Tensor
    entropy: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name, on the CPU, for a checkpoint."""
        parts = {**vars(self.completions), **{k: v for k, v in vars(self).items() if k != "completions"}}
        return {name: tensor.cpu() for name, tensor in parts.items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], device: torch.device) -> Rollouts:
        """The inverse of `tensors`."""
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        completions = Completions(*(tensors.pop(f.name) for f in dataclasses.fields(Completions)))
        return cls(completions, **tensors)


def encode_prompts(tokenizer: PreTrainedTokenizerBase, rows: list[Row], limit: int) -> tuple[Tensor, Tensor]:
    """Prompt ids int64 [B, P], left-padded, and their mask bool [B, P].

    A tokenizer with a chat template wraps the prompt as the user's turn.

    Raises:
        ValueError: a prompt has more than `limit` tokens, or none.
    """
    encoded: list[list[int]] = []
    for row in rows:
        text = row["prompt"]
        if tokenizer.chat_template:
            turn = [{"role": "user", "content": text}]
            text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"]
        if not 0 < len(ids) <= limit:
            raise ValueError(
                f"prompt has {len(ids)} tokens, must be 1 to max_prompt_length {limit}: {row['prompt'][:80]!r}"
            )
        encoded.append(ids)
    width = max(len(ids) for ids in encoded)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    prompt_ids = torch.tensor([[pad] * (width - len(ids)) + ids for ids in encoded])
    prompt_mask = torch.tensor([[False] * (width - len(ids)) + [True] * len(ids) for ids in encoded])
    return prompt_ids, prompt_mask


def decode_text(tokenizer: PreTrainedTokenizerBase, tokens: Tensor) -> list[str]:
    """Completions as text, without special tokens."""
    return list(tokenizer.batch_decode(tokens, skip_special_tokens=True))


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
) -> Tensor:
    """Completions of prompts in forwards of at most `rollout_batch_size` rows; int64 [B, gen_length]."""
    parts = []
    for start in range(0, len(prompt_ids), config.rollout_batch_size):
        rows = slice(start, start + config.rollout_batch_size)
        generation = generate(
            model,
            prompt_ids[rows],
            decoder=config.decoder,
            gen_length=config.gen_length,
            block_length=config.block_length,
            steps=steps,
            temperature=temperature,
            attention_mask=prompt_mask[rows],
            early_stop=config.early_stop,
            seed=seed,
            row_ids=row_ids[rows],
        )
        parts.append(generation.sequences[:, prompt_ids.shape[1] :])
    return torch.cat(parts)


def collect(
    model: nn.Module,
    reference: ReferencePolicy,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    reward: Reward,
    config: DMPOConfig,
    *,
    round_index: int,
    rank: int,
    world: int,
    device: torch.device,
    clock: Clock,
) -> Rollouts:
    """One round of rollouts on this rank. Draws depend on (seed, prompt, completion), not on ranks or batches."""
    share = config.num_prompts // world
    prompts = [round_index * config.num_prompts + rank * share + j for j in range(share)]
    rows = [training_row(task, config.seed, index) for index in prompts]
    group = config.num_generations
    row_ids = torch.tensor([index * group + g for index in prompts for g in range(group)], device=device)

    with clock("rollout"):
        prompt_ids, prompt_mask = encode_prompts(tokenizer, rows, config.max_prompt_length)
        prompt_ids = prompt_ids.repeat_interleave(group, 0).to(device)  # [B, P]
        prompt_mask = prompt_mask.repeat_interleave(group, 0).to(device)
        tokens = complete(
            model,
            prompt_ids,
            prompt_mask,
            row_ids,
            config,
            temperature=config.temperature,
            steps=config.steps,
            seed=derive_key(config.seed, "rollout"),
        )
    with clock("reward"):
        columns = {name: [row[name] for row in rows for _ in range(group)] for name in rows[0]}
        rewards = torch.tensor(score(reward, decode_text(tokenizer, tokens), columns), device=device)
    with clock("score"):
        mask_id, eos_id = special_ids(model)
        eligible = completion_mask(tokens, eos_id if config.truncate_at_eos else None)
        completions = Completions(prompt_ids, prompt_mask, tokens, eligible)
        views = sample_views(
            eligible,
            config.score_views,
            key=derive_key(config.seed, "score"),
            row_ids=row_ids,
            rate_range=(config.mask_rate_min, config.mask_rate_max),
            antithetic=config.antithetic,
        )
        size = config.rollout_batch_size
        log_prob_cur = sequence_log_prob(model, completions, views, mask_id=mask_id, batch_size=size)
        with reference.active() as reference_model:
            log_prob_ref = sequence_log_prob(reference_model, completions, views, mask_id=mask_id, batch_size=size)
        sample = spaced(len(tokens), size, device)
        entropy = token_entropy(model, completions[sample], views[sample], mask_id=mask_id)
    return Rollouts(completions, row_ids, rewards, log_prob_ref, log_prob_cur, entropy)


def training_row(task: Task, seed: int, index: int) -> Row:
    """The index-th prompt of a run; another seed sees other rows."""
    return task.row("train", derive_key(seed, "prompt", index))
