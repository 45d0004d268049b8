"""DMPO in one file: the whole algorithm on the embedded model, without the trainer.

    python examples/one_file.py

A masked diffusion language model starts from a row of mask tokens and fills in a few of them at each step. DMPO moves
such a model p_θ towards the target p* ∝ p_ref · exp(reward/α), where p_ref is the model before training
(arXiv 2510.08233). Each round draws completions, rewards them, scores them and weighs them. The round then pays for a
few gradient steps: each of them masks the same completions anew, and asks the model for the tokens under the masks.
docs/maths.md has every formula. `DMPOTrainer` does the same with ranks, micro-batches, checkpoints and reports; a test
holds its first steps equal to the steps of this file.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

import dmpo
from dmpo.randomness import derive_key
from dmpo.tasks import load_task


@dataclass(frozen=True)
class Settings:
    """Names and values as in the shipped config `sudoku-tiny`, with fewer prompts in a round."""

    seed: int = 0
    num_prompts: int = 8  # in a round
    num_generations: int = 8  # completions of each prompt: a group of size G
    gen_length: int = 16  # L, tokens of a completion: the cells of the grid
    steps: int = 4  # model calls of a completion
    alpha: float = 0.1  # temperature of the target
    strength: float = 0.5  # how much of the baseline is subtracted
    replicates: int = 2  # R, masked views of each completion in a gradient step
    score_views: int = 2  # views of each completion for its log-probability
    gradient_steps: int = 2  # in a round
    max_steps: int = 10
    learning_rate: float = 1e-4
    warmup_steps: int = 10
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class Round:
    """Groups of G completions; row = group · G + completion. rewards and both weights are [groups, G]."""

    completions: dmpo.Completions
    row_ids: Tensor  # int64 [groups · G], the number of each completion in the whole run
    rewards: Tensor
    weights: dmpo.ImportanceWeights


def collect(index: int, model: PreTrainedModel, reference: PreTrainedModel, settings: Settings) -> Round:
    """Draw, reward, score and weigh one round of completions."""
    task, tokenizer = load_task("sudoku4"), dmpo.load_tokenizer("sudoku-tiny")
    prompts, group = settings.num_prompts, settings.num_generations
    row_ids = torch.arange(prompts * group) + index * prompts * group

    # Draw. The rows of a task are endless; a key chooses one. Every draw depends on the seed and its row id alone.
    keys = [derive_key(settings.seed, "prompt", index * prompts + number) for number in range(prompts)]
    rows = [row for key in keys for row in [task.row("train", key)] * group]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    prompt_ids = tokenizer(columns["prompt"], return_tensors="pt").input_ids  # [B, P], all equally long
    sequences = dmpo.generate(
        model,
        prompt_ids,
        decoder="topk",
        gen_length=settings.gen_length,
        block_length=settings.gen_length,
        steps=settings.steps,
        temperature=1.0,
        seed=derive_key(settings.seed, "rollout"),
        row_ids=row_ids,
    ).sequences
    tokens = sequences[:, prompt_ids.shape[1] :]  # [B, L]

    # Reward: one number for each text.
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    rewards = torch.tensor(task.reward(texts, **columns)).view(prompts, group)

    # Score: log p of each completion, estimated on the same random views under both models.
    every = torch.ones_like(tokens, dtype=torch.bool)
    completions = dmpo.Completions(prompt_ids, torch.ones_like(prompt_ids, dtype=torch.bool), tokens, every)
    key = derive_key(settings.seed, "score")
    views = dmpo.sample_views(every, settings.score_views, key=key, row_ids=row_ids)  # [views · B, L]
    log_prob_ref, log_prob_cur = (
        dmpo.sequence_log_prob(
            scored, completions, views, mask_id=model.config.mask_token_id, batch_size=len(views)
        ).view(prompts, group)
        for scored in (reference, model)
    )

    # Weigh. w = softmax(log p_ref − log p_cur + reward/α) over a group: weighted so, samples of the current model stand
    # for samples of the target. The negative weights b have −reward/α instead.
    weights = dmpo.importance_weights(rewards, log_prob_ref, log_prob_cur, alpha=settings.alpha)
    return Round(completions, row_ids, rewards, weights)


def loss_of(batch: Round, model: PreTrainedModel, step: int, settings: Settings) -> Tensor:
    """The weighted denoising cross-entropy of a round on fresh views."""
    rows = batch.completions.repeat(settings.replicates)  # row = view · B + completion
    key = derive_key(settings.seed, "views", step)
    masked = dmpo.sample_views(batch.completions.eligible, settings.replicates, key=key, row_ids=batch.row_ids)
    view = rows.tokens.masked_fill(masked, model.config.mask_token_id)
    logits = model(torch.cat([rows.prompt_ids, view], 1)).logits[:, rows.prompt_ids.shape[1] :]  # [R · B, L, V]
    # Σ (w − strength · b) · mean of −log p over the masked tokens. The weights w pull the model towards a completion;
    # the baseline b, which is large where the reward is small, pushes it away.
    wdce = dmpo.WDCELoss(baseline="negative", strength=settings.strength, replicates=settings.replicates)
    loss: Tensor = wdce(logits, rows.tokens, masked, batch.weights.positive, batch.weights.negative)
    return loss


def train(model: PreTrainedModel, settings: Settings) -> list[tuple[Round, float, float]]:
    """Train the model in place. Returns the round, the loss and the norm of the gradient of every step."""
    reference = dmpo.load_model("sudoku-tiny")  # what the model was: frozen
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=0.0)
    history: list[tuple[Round, float, float]] = []
    for step in range(settings.max_steps):
        if step % settings.gradient_steps == 0:
            batch = collect(step // settings.gradient_steps, model, reference, settings)
        model.train()
        loss = loss_of(batch, model, step, settings)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        for parameters in optimizer.param_groups:
            parameters["lr"] = settings.learning_rate * min(1.0, (step + 1) / settings.warmup_steps)
        optimizer.step()
        optimizer.zero_grad()
        history.append((batch, loss.item(), norm.item()))
        reward, ess = batch.rewards.mean(), batch.weights.ess.mean()
        print(f"step {step + 1:3}  loss {loss.item():+.4f}  reward {reward:.3f}  effective share of a group {ess:.3f}")
    return history


if __name__ == "__main__":
    train(dmpo.load_model("sudoku-tiny"), Settings())
