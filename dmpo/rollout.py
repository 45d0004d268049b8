"""Rollouts: prompts → completions, rewards, log-probabilities under the reference and the current policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from .config import DMPOConfig, decoding_options
from .decoding import Generation, generate
from .likelihood import Completions, ordered_log_probs, sequence_log_prob, spaced, token_entropy
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
    float32 [B], the latter two ELBOs; entropy is the policy's mean token entropy in nats on views of these completions.
    forwards, row_forwards, drawn: model calls, rows that went through them, tokens drawn and kept; int64 scalars.
    mismatch: float32 [B], see `rollout_mismatch`.
    path_log_prob_cur, path_log_prob_ref: float32 [B], log-probability of the drawn tokens in the order they were drawn,
        exact unless early_stop overwrote some; for decoder random_order, else None.
    """

    completions: Completions
    row_ids: Tensor
    rewards: Tensor
    log_prob_ref: Tensor
    log_prob_cur: Tensor
    entropy: Tensor
    forwards: Tensor
    row_forwards: Tensor
    drawn: Tensor
    mismatch: Tensor
    path_log_prob_cur: Tensor | None = None
    path_log_prob_ref: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name, on the CPU, for a checkpoint; what is None is left out."""
        parts = {**vars(self.completions), **{k: v for k, v in vars(self).items() if k != "completions"}}
        return {name: tensor.cpu() for name, tensor in parts.items() if tensor is not None}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], device: torch.device) -> Rollouts:
        """The inverse of `tensors`."""
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        fields = {f.name: f for kind in (cls, Completions) for f in dataclasses.fields(kind) if f.name != "completions"}
        needed = {name for name, f in fields.items() if f.default is dataclasses.MISSING}
        if odd := (needed - set(tensors)) | (set(tensors) - set(fields)):
            raise ValueError(f"rollouts of another version of dmpo: {', '.join(sorted(odd))} missing or unknown")
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
) -> Generation:
    """Completions of all prompts, in batches of at most `rollout_batch_size` rows; counts and seconds are summed."""
    options = decoding_options(config, temperature=temperature, steps=steps, seed=seed)
    parts = []
    for start in range(0, len(prompt_ids), config.rollout_batch_size):
        rows = slice(start, start + config.rollout_batch_size)
        parts.append(
            generate(model, prompt_ids[rows], attention_mask=prompt_mask[rows], row_ids=row_ids[rows], **options)
        )
    return Generation(
        torch.cat([part.sequences for part in parts]),
        sum(part.forwards for part in parts),
        sum(part.row_forwards for part in parts),
        sum(part.seconds for part in parts),
        torch.cat([part.log_probs for part in parts]),
        torch.cat([part.order for part in parts]),
    )


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
        generation = complete(
            model,
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

        def log_probs(policy: nn.Module) -> tuple[Tensor, Tensor | None]:
            """The ELBO, and the exact log-probability of the path where that is a likelihood of its own."""
            elbo = sequence_log_prob(policy, completions, views, mask_id=mask_id, batch_size=size)
            if config.decoder != "random_order":
                return elbo, None
            path = ordered_log_probs(policy, completions, generation.order, mask_id=mask_id, batch_size=size)
            return elbo, path.sum(-1)

        log_prob_cur, path_cur = log_probs(model)
        with reference.active() as reference_model:
            log_prob_ref, path_ref = log_probs(reference_model)
        sample = spaced(len(tokens), size, device)
        entropy = token_entropy(model, completions[sample], views[sample], mask_id=mask_id)
    return Rollouts(
        completions,
        row_ids,
        rewards,
        log_prob_ref,
        log_prob_cur,
        entropy,
        forwards=torch.tensor(generation.forwards, device=device),
        row_forwards=torch.tensor(generation.row_forwards, device=device),
        drawn=torch.tensor(drawn, device=device),
        mismatch=rollout_mismatch(generation, eligible, log_prob_cur),
        path_log_prob_cur=path_cur,
        path_log_prob_ref=path_ref,
    )


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
