"""A whole RL step as in the published code, written plainly: the baseline of measured/rl_step.py.

Rollout: baselines/decoders.py, logits of all positions, float64 softmax and noise over the whole vocabulary, `topk` row
by row. Scoring and loss: logits of every position of prompt and completion, and cross-entropy over all of them; the
unmasked positions are dropped afterwards. The formulas are the same as ours, and so are the numbers for the same
completions and views. Importance weights and views cost nothing, so they are dmpo's own functions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from benchmarks.baselines.decoders import published_generate
from benchmarks.harness.clock import Phases
from dmpo.config import DMPOConfig
from dmpo.losses.weights import baseline_weights, importance_weights
from dmpo.models.tokenizer import decode_text, encode_prompts
from dmpo.randomness import derive_key
from dmpo.rewards import RewardPool
from dmpo.rollouts.batch import Batch, Completions
from dmpo.rollouts.masking import views_of
from dmpo.rollouts.rollout import training_row
from dmpo.tasks import Task


def token_losses(model: Any, rows: Completions, views: Tensor, mask_id: int) -> Tensor:
    """-log p of every completion token [N, L], masked or not; views bool [N, L]."""
    ids = torch.cat([rows.prompt_ids, rows.tokens.masked_fill(views, mask_id)], 1)  # [N, P+L]
    logits = model(ids).logits  # [N, P+L, V]
    targets = torch.cat([rows.prompt_ids, rows.tokens], 1)
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(ids)
    return losses[:, rows.prompt_ids.shape[1] :]


@torch.no_grad()
def published_log_prob(model: Any, rows: Completions, views: Tensor, mask_id: int, batch_size: int) -> Tensor:
    """Monte-Carlo ELBO of B completions [B] from views [K·B, L] (docs/maths.md, section 4)."""
    count, repeated, parts = len(views) // len(rows), rows.repeat(len(views) // len(rows)), []
    model.eval()
    for start in range(0, len(views), batch_size):
        part, mask = repeated[start : start + batch_size], views[start : start + batch_size]
        losses = token_losses(model, part, mask, mask_id)
        parts.append(-(losses * mask).sum(1) / mask.sum(1) * part.eligible.sum(1))
    return torch.cat(parts).view(count, -1).mean(0)


def published_collect(
    model: Any, tokenizer: PreTrainedTokenizerBase, task: Task, reward: RewardPool, config: DMPOConfig, clock: Phases
) -> Batch:
    """A round of rollouts, rewards and log-probabilities under both policies. Prompts are all of one length."""
    group, device, mask_id = config.num_generations, next(model.parameters()).device, tokenizer.mask_token_id
    rows = [training_row(task, config.seed, index) for index in range(config.num_prompts)]
    with clock("rollout"):
        prompt_ids, prompt_mask = (x.to(device) for x in encode_prompts(tokenizer, rows, config.max_prompt_length))
        prompt_ids, prompt_mask = prompt_ids.repeat_interleave(group, 0), prompt_mask.repeat_interleave(group, 0)
        model.eval()
        parts = [
            published_generate(
                model,
                part,
                decoder=config.decoder,
                gen_length=config.gen_length,
                block_length=config.block_length,
                steps=config.steps,
                temperature=config.temperature,
                mask_id=mask_id,
                seed=config.seed + number,
            )[0]
            for number, part in enumerate(prompt_ids.split(config.rollout_batch_size))
        ]
        tokens = torch.cat(parts)[:, prompt_ids.shape[1] :]
    with clock("reward"):
        columns = {name: [row[name] for row in rows for _ in range(group)] for name in rows[0]}
        rewards = torch.tensor(reward.score(decode_text(tokenizer, tokens), columns).values, device=device)
    with clock("score"):
        completions = Completions(prompt_ids, prompt_mask, tokens, torch.ones_like(tokens).bool())
        row_ids = torch.arange(len(tokens), device=device)
        key = derive_key(config.seed, "score")
        views = views_of(config, completions.eligible, row_ids, replicates=config.score_views, key=key).masks
        size = config.rollout_batch_size
        current = published_log_prob(model, completions, views, mask_id, size)
        with model.disable_adapter():
            reference = published_log_prob(model, completions, views, mask_id, size)
    rewards, reference, current = (x.view(-1, group) for x in (rewards, reference, current))
    return Batch(
        completions=completions,
        row_ids=row_ids,
        rewards=rewards,
        log_prob_ref=reference,
        log_prob_cur=current,
        age=torch.zeros(config.num_prompts, dtype=torch.int64, device=device),
        report={},
    )


def published_gradient(model: Any, batch: Batch, config: DMPOConfig, mask_id: int, step: int) -> float:
    """Add the gradient of WDCE on fresh views (docs/maths.md, sections 2 to 5) to the parameters; the loss."""
    scores = (batch.rewards, batch.log_prob_ref, batch.log_prob_cur)
    weights = importance_weights(*scores, alpha=config.alpha, coeff=config.coeff)
    baseline = baseline_weights(config.baseline, weights.positive, weights.negative)
    coefficients = weights.positive if baseline is None else weights.positive - config.strength * baseline
    coefficients = (coefficients / len(coefficients)).flatten().repeat(config.replicates)  # [R·B]
    rows, key = batch.completions.repeat(config.replicates), derive_key(config.seed, "views", step)
    views = views_of(config, batch.completions.eligible, batch.row_ids, replicates=config.replicates, key=key).masks
    model.train()
    total = 0.0
    for start in range(0, len(views), config.micro_batch_size):
        part = slice(start, start + config.micro_batch_size)
        losses, mask = token_losses(model, rows[part], views[part], mask_id), views[part]
        loss = (coefficients[part] * (losses * mask).sum(1) / mask.sum(1)).sum() / config.replicates
        loss.backward()
        total += float(loss.detach())
    return total


def published_update(
    model: Any, trainable: list[nn.Parameter], optimizer: Any, batch: Batch, config: DMPOConfig, mask_id: int, step: int
) -> float:
    """One gradient step; the loss."""
    loss = published_gradient(model, batch, config, mask_id, step)
    nn.utils.clip_grad_norm_(trainable, config.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return loss
