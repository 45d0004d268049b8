"""Log-probabilities of completions: the Monte-Carlo ELBO on given views, exact ones in a given order; and entropy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..kernels import linear_token_logprobs
from ..losses.views import mean_log_prob
from ..models.masked_lm import HeadFunction, T, apply_head, without_dropout
from ..models.tokenizer import padding
from .batch import Completions, spaced


def apply_head_to_views(model: nn.Module, rows: Completions, mask: Tensor, mask_id: int, head: HeadFunction[T]) -> T:
    """`head(hidden, weight, bias)` on the completion positions of each view, inside the model's forward.

    mask: bool [N, L], the positions that each view masks. hidden: [N, L, H]; weight [V, H] and bias [V] or None are
    lm_head's. The other arguments are as in `masked_lm.apply_head`.
    """
    view = rows.tokens.masked_fill(mask, mask_id)
    blank, padded = padding(rows.prompt_mask)  # columns without a token cost a pass as much as others do
    prompt_ids, prompt_mask = rows.prompt_ids[:, blank:], rows.prompt_mask[:, blank:]
    input_ids = torch.cat([prompt_ids, view], 1)  # [N, P+L]
    attention_mask = torch.cat([prompt_mask, torch.ones_like(mask)], 1) if padded else None
    start = prompt_ids.shape[1]
    return apply_head(model, lambda hidden, *of_head: head(hidden[:, start:], *of_head), input_ids, attention_mask)


@torch.no_grad()
def sequence_log_prob(
    model: nn.Module,
    completions: Completions,
    views: Tensor,
    *,
    mask_id: int,
    batch_size: int,
) -> Tensor:
    """log p(o|q) ≈ mean over views of (n/m) · Σ_masked log p, n the positions that count (docs/maths.md, section 4).

    No dropout is live and no gradient kept. Only masked rows go through lm_head.

    Args:
        completions: B of them.
        views: bool [R·B, L] from `sample_views`, row = replicate · B + sample.
        batch_size: rows of one forward.

    Returns:
        float32 [B].

    Raises:
        ValueError: a prompt is padded elsewhere than on its left.
    """
    _check_padding(completions.prompt_mask)
    replicates = len(views) // len(completions)
    rows = completions.repeat(replicates)
    token_log_probs = []
    with without_dropout(model):
        for start in range(0, len(views), batch_size):
            chunk = slice(start, start + batch_size)
            mask = views[chunk]
            log_probs = _log_probs(model, rows[chunk], mask, mask, mask_id)
            token_log_probs.append(log_probs.new_zeros(mask.shape).masked_scatter(mask, log_probs))
    return mean_log_prob(torch.cat(token_log_probs), views, completions.eligible.sum(-1), replicates)


@torch.no_grad()
def ordered_log_probs(
    model: nn.Module, completions: Completions, order: Tensor, *, mask_id: int, batch_size: int
) -> Tensor:
    """log p of each token given the prompt and the tokens of earlier steps; summed over a row, log p of its path.

    As in decoding, the mask token has no probability: with one token a step, the probabilities of the paths of one
    order sum to 1. All canvases of a path are known once it is drawn, so none waits for another. No dropout is live and
    no gradient kept; only the positions of a canvas's own step go through lm_head.

    Args:
        completions: B of them.
        order: int [B, L], the step at which each token was drawn, as in `Generation`. -1: never drawn (the filling
            after an EOS); such a position is masked in every canvas and scores 0. A token that a decoder drew and did
            not keep (after an EOS, or taken back by wino) is masked, too, though the decoder saw it for a while. In
            that case, and with guidance or a cache, these are not the log-probabilities that the decoder drew from.
        batch_size: rows of one forward.

    Returns:
        float32 [B, L], nats, untempered.

    Raises:
        ValueError: order does not have the shape of the tokens; a prompt is padded elsewhere than on its left.
    """
    _check_padding(completions.prompt_mask)
    if order.shape != completions.tokens.shape:
        raise ValueError(f"order has shape {tuple(order.shape)}, the tokens {tuple(completions.tokens.shape)}")
    steps = int(order.max()) + 1
    row = torch.arange(len(order), device=order.device).unsqueeze(1)
    canvases = (row * steps + order)[order >= 0].unique()  # one for each step of each row
    result = torch.zeros(order.shape, device=order.device)
    with without_dropout(model):
        for start in range(0, len(canvases), batch_size):
            chunk = canvases[start : start + batch_size]
            row, step = chunk // steps, (chunk % steps).unsqueeze(1)
            drawn = order[row]  # [n, L]
            now = drawn == step
            log_probs = _log_probs(model, completions[row], (drawn < 0) | (drawn >= step), now, mask_id, forbid=mask_id)
            canvas, position = now.nonzero(as_tuple=True)
            result[row[canvas], position] = log_probs.float()
    return result


@torch.no_grad()
def token_entropy(model: nn.Module, rows: Completions, mask: Tensor, *, mask_id: int, max_tokens: int = 256) -> Tensor:
    """Mean entropy in nats of the prediction at masked positions, at most `max_tokens` evenly spaced ones."""

    def entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        hidden = hidden[mask]
        hidden = hidden[spaced(len(hidden), max_tokens, hidden.device)]
        log_probs = nn.functional.linear(hidden, weight, bias).float().log_softmax(-1)
        return -(log_probs.exp() * log_probs.clamp(min=torch.finfo(log_probs.dtype).min)).sum(-1).mean()

    with without_dropout(model):
        return apply_head_to_views(model, rows, mask, mask_id, entropy)


def _check_padding(prompt_mask: Tensor) -> None:
    """Raise ValueError for padding after a prompt's first token: the completion would not follow on its last one."""
    misplaced = (prompt_mask[:, :-1] & ~prompt_mask[:, 1:]).any(-1)
    if bool(misplaced.any()):
        row = int(misplaced.nonzero()[0])
        raise ValueError(f"prompt_mask must be left padding (False, then True), got padding after a token in row {row}")


def _log_probs(
    model: nn.Module, rows: Completions, mask: Tensor, scored: Tensor, mask_id: int, forbid: int | None = None
) -> Tensor:
    """Log-probabilities [M] of the M tokens where `scored`, each row masked by `mask`; bool [N, L] both.

    forbid: a token without probability.
    """

    def token_log_probs(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if forbid is not None:
            bias = weight.new_zeros(len(weight)) if bias is None else bias.clone()
            bias[forbid] = torch.finfo(bias.dtype).min / 2  # finite, should it be alone in a kernel's tile
        return linear_token_logprobs(hidden[scored], weight, rows.tokens[scored], bias=bias)

    return apply_head_to_views(model, rows, mask, mask_id, token_log_probs)
