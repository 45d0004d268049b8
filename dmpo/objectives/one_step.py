"""One-step log-probabilities: every token of a completion at once, all of them masked (d1, arXiv 2504.12216).

A view masks the whole completion and each token of the prompt with probability `prompt_mask_rate`; log p of each token
is read off one forward. Of the F gradient steps of a round each has masks of its own, R (`replicates`) a completion.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from ..config.keys import DMPOConfig
from ..models.masked_lm import special_ids, without_dropout
from ..randomness import derive_key, uniforms
from ..rollouts.batch import Completions
from ..rollouts.chunks import chunks, view_order
from ..rollouts.likelihood import masked_log_probs
from ..rollouts.scoring import pass_limits
from .step import Step


def one_step_views(
    completions: Completions, row_ids: Tensor, config: DMPOConfig, iteration: int, mask_id: int
) -> tuple[Completions, Tensor]:
    """Completions [R·B] with masked prompts, row = replicate · B + sample, and their masks, bool [R·B, L]: all true.

    Args:
        row_ids: int64 [B]. Prompt masks depend on them, the seed, iteration and replicate alone: not on padding.
        iteration: the gradient step within its round, 0 to F − 1.
    """
    rows, prompts = completions.repeat(config.replicates), []
    for replicate in range(config.replicates):
        key = derive_key(config.seed, "prompt mask", iteration, replicate)
        u = uniforms(key, row_ids, completions.prompt_ids.shape[1]).flip(-1)  # column 0 is next to the completion
        masked = (u < config.prompt_mask_rate) & completions.prompt_mask
        prompts.append(completions.prompt_ids.masked_fill(masked, mask_id))
    rows = dataclasses.replace(rows, prompt_ids=torch.cat(prompts))
    return rows, torch.ones_like(rows.eligible)


def views_of_step(step: Step) -> tuple[Completions, Tensor, int]:
    """`one_step_views` of a gradient step, and its index within its round."""
    batch, iteration = step.batch, step.index % step.config.gradient_steps
    return *one_step_views(batch.completions, batch.row_ids, step.config, iteration, step.mask_id), iteration


@torch.no_grad()
def one_step_log_probs(model: nn.Module, completions: Completions, row_ids: Tensor, config: DMPOConfig) -> Tensor:
    """log p in nats of each token that counts, 0 elsewhere, at every gradient step of a round: float32 [B, F, R, L].

    No dropout is live and no gradient kept; at most `rollout_batch_size` rows pass at once.
    """
    mask_id, _ = special_ids(model)
    count, length = completions.tokens.shape
    limits = pass_limits(config, config.rollout_batch_size, whole=True)
    repeated = completions.repeat(config.replicates)
    order = view_order(count, config.replicates)
    passes = chunks(repeated.prompt_mask, repeated.eligible.sum(-1), length, limits, order)
    log_probs: Tensor | None = None
    with without_dropout(model):
        for iteration in range(config.gradient_steps):
            rows, masks = one_step_views(completions, row_ids, config, iteration, mask_id)
            for chunk in passes:
                of_rows, mask = rows[chunk.index], masks[chunk.index]
                of_chunk = masked_log_probs(model, of_rows, mask, of_rows.eligible, mask_id, chunk)
                if log_probs is None:
                    log_probs = of_chunk.new_zeros(config.gradient_steps, len(rows), length)
                log_probs[iteration, chunk.index] = of_chunk
    assert log_probs is not None
    shape = config.gradient_steps, config.replicates, count, length
    return log_probs.view(shape).permute(2, 0, 1, 3).contiguous()
