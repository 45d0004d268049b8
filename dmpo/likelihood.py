"""Sequence log-probabilities of completions: the Monte-Carlo ELBO on given views, and the entropy of the policy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .kernels import linear_token_logprobs
from .losses import mean_log_prob
from .masked_lm import head_weight, hidden_states


@dataclass(frozen=True)
class Completions:
    """Prompts and their completions, side by side.

    prompt_ids int64 [B, P], prompt_mask bool [B, P] (False: left padding), tokens int64 [B, L], eligible bool [B, L]
    (positions that count: all, or up to the first EOS).
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    tokens: Tensor
    eligible: Tensor

    def repeat(self, replicates: int) -> Completions:
        """Row = replicate · B + sample."""
        parts = (self.prompt_ids, self.prompt_mask, self.tokens, self.eligible)
        return Completions(*(part.repeat(replicates, 1) for part in parts))

    def __getitem__(self, rows: slice | Tensor) -> Completions:
        return Completions(self.prompt_ids[rows], self.prompt_mask[rows], self.tokens[rows], self.eligible[rows])

    def __len__(self) -> int:
        return len(self.tokens)


def view_hidden(model: nn.Module, rows: Completions, mask: Tensor, mask_id: int) -> Tensor:
    """Hidden states of the completion positions of each view; mask bool [N, L] -> [N, L, H]."""
    view = rows.tokens.masked_fill(mask, mask_id)
    input_ids = torch.cat([rows.prompt_ids, view], 1)  # [N, P+L]
    attention_mask = torch.cat([rows.prompt_mask, torch.ones_like(mask)], 1)
    return hidden_states(model, input_ids, attention_mask)[:, rows.prompt_ids.shape[1] :]


@torch.no_grad()
def sequence_log_prob(
    model: nn.Module,
    completions: Completions,
    views: Tensor,
    *,
    mask_id: int,
    batch_size: int,
) -> Tensor:
    """log p(o|q) ≈ mean over views of (n/m) · Σ_masked log p, n the positions that count (algorithm, section 2).

    No dropout is live and no gradient kept. Only masked rows go through lm_head.

    Args:
        completions: B of them.
        views: bool [R·B, L] from `sample_views`, row = replicate · B + sample.
        batch_size: rows of one forward.

    Returns:
        float32 [B].
    """
    was_training = model.training
    model.eval()
    weight, bias = head_weight(model)
    rows = completions.repeat(len(views) // len(completions))
    parts = []
    for start in range(0, len(views), batch_size):
        part, mask = rows[start : start + batch_size], views[start : start + batch_size]
        hidden = view_hidden(model, part, mask, mask_id)
        log_probs = linear_token_logprobs(hidden[mask], weight, part.tokens[mask], bias=bias)
        parts.append(log_probs.new_zeros(mask.shape).masked_scatter(mask, log_probs))
    model.train(was_training)
    replicates = len(views) // len(completions)
    return mean_log_prob(torch.cat(parts), views, completions.eligible.sum(-1), replicates)


@torch.no_grad()
def token_entropy(model: nn.Module, rows: Completions, mask: Tensor, *, mask_id: int, max_tokens: int = 256) -> Tensor:
    """Mean entropy in nats of the prediction at masked positions, at most `max_tokens` evenly spaced ones."""
    was_training = model.training
    model.eval()
    hidden = view_hidden(model, rows, mask, mask_id)[mask]
    hidden = hidden[spaced(len(hidden), max_tokens, hidden.device)]
    weight, bias = head_weight(model)
    log_probs = nn.functional.linear(hidden, weight, bias).float().log_softmax(-1)
    model.train(was_training)
    return -(log_probs.exp() * log_probs.clamp(min=torch.finfo(log_probs.dtype).min)).sum(-1).mean()


def spaced(total: int, most: int, device: torch.device) -> Tensor:
    """At most `most` of the indices 0..total-1, evenly spaced; int64."""
    count = min(total, most)
    return torch.arange(count, device=device) * total // max(1, count)
