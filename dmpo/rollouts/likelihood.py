"""Log-probabilities of completions: the Monte-Carlo ELBO on given views, exact ones in a given order; and entropy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..kernels import linear_token_logprobs
from ..losses.views import check_view_weights, mean_log_prob
from ..models.block_causal import two_copies
from ..models.last_layer import HeadRows
from ..models.masked_lm import HeadFunction, T, apply_head, unwrap, without_dropout
from ..models.tokenizer import padding
from .batch import Completions, spaced
from .chunks import Chunk, PassLimits, chunks, view_order

ENTROPY_ROWS = 32  # rows whose logits exist at a time


def apply_head_to_views(
    model: nn.Module,
    rows: Completions,
    mask: Tensor,
    mask_id: int,
    head: HeadFunction[T],
    *,
    kept: Tensor | None = None,
    chunk: Chunk | None = None,
) -> T:
    """`head(hidden, weight, bias)` on the completion positions of each view, inside the model's forward.

    The queries of the last layer run on the completions alone, and what follows them on the positions kept. A
    block-causal model predicts each block with masks from the earlier blocks without masks, in the same pass.

    Args:
        mask: bool [N, L], the positions that each view masks.
        head: hidden is [N, L, H], or [M, H] where positions are kept; weight [V, H] and bias [V] or None are lm_head's.
        kept: int64 [M], indices into the N·L completion positions, see `kept_positions`; None: all.
        chunk: the chunk that the rows are, where it is known; it says which columns are padding.

    The other arguments are as in `masked_lm.apply_head`.
    """
    view = rows.tokens.masked_fill(mask, mask_id)
    # Columns without a token cost a pass as much as others do.
    blank, padded = padding(rows.prompt_mask) if chunk is None else (chunk.blank, chunk.padded)
    prompt_ids, prompt_mask = rows.prompt_ids[:, blank:], rows.prompt_mask[:, blank:]
    input_ids = torch.cat([prompt_ids, view], 1)  # [N, P+L]
    attended, width = torch.cat([prompt_mask, torch.ones_like(mask)], 1), prompt_ids.shape[1]
    if size := unwrap(model).block_size:
        both = two_copies(torch.cat([prompt_ids, rows.tokens], 1), input_ids, attended.bool(), width, size)
        return apply_head(
            model, head, both.input_ids, both.mask, both.position_ids, rows=HeadRows(both.positions, kept)
        )
    attention_mask = attended if padded else None
    positions = torch.arange(width, input_ids.shape[1], device=view.device)
    return apply_head(model, head, input_ids, attention_mask, rows=HeadRows(positions, kept))


def kept_positions(scored: Tensor) -> Tensor:
    """Indices of the positions that the head reads; bool [N, L] -> int64 [M]. On a GPU this waits for the device."""
    return scored.flatten().nonzero().squeeze(1)


@torch.no_grad()
def masked_log_probs(
    model: nn.Module,
    rows: Completions,
    mask: Tensor,
    scored: Tensor,
    mask_id: int,
    chunk: Chunk | None = None,
    forbid: int | None = None,
) -> Tensor:
    """Log-probabilities [N, L] of the tokens where `scored`, 0 elsewhere, each row masked by `mask`; bool [N, L] both.

    forbid: a token without probability.
    """
    kept = kept_positions(scored)

    def token_log_probs(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if forbid is not None:
            bias = weight.new_zeros(len(weight)) if bias is None else bias.clone()
            bias[forbid] = torch.finfo(bias.dtype).min / 2  # finite, should it be alone in a kernel's tile
        return linear_token_logprobs(hidden, weight, rows.tokens.flatten()[kept], bias=bias)

    of_kept = apply_head_to_views(model, rows, mask, mask_id, token_log_probs, kept=kept, chunk=chunk)
    return of_kept.new_zeros(scored.numel()).index_copy_(0, kept, of_kept).view(scored.shape)


@torch.no_grad()
def sequence_log_prob(
    model: nn.Module,
    completions: Completions,
    views: Tensor,
    *,
    mask_id: int,
    batch_size: int,
    limits: PassLimits | None = None,
    view_weights: Tensor | None = None,
) -> Tensor:
    """log p(o|q) ≈ mean over views of (n/m) · Σ_masked log p, n the positions that count (docs/maths.md, section 4).

    No dropout is live and no gradient kept. Only masked rows go through the last layer's MLP and lm_head.

    Args:
        completions: B of them.
        views: bool [R·B, L] from `sample_views`, row = replicate · B + sample.
        batch_size: rows of one forward, if their prompts are as long as the longest; more where they are shorter.
        limits: the same in tokens; None: of `batch_size` rows of the longest of these completions.
        view_weights: [R·B], what each view counts in the mean (`sample_views` with rates `gauss`); None: 1.

    Returns:
        float32 [B].

    Raises:
        ValueError: a prompt is padded elsewhere than on its left, or view_weights has another shape.
    """
    _check_padding(completions.prompt_mask)
    check_view_weights(view_weights, len(views))
    replicates, length = len(views) // len(completions), views.shape[1]
    rows = completions.repeat(replicates)
    limits = limits or PassLimits.of_rows(batch_size, rows.prompt_ids.shape[1], length)
    token_log_probs: Tensor | None = None
    with without_dropout(model):
        for chunk in chunks(rows.prompt_mask, views.sum(-1), length, limits, view_order(len(completions), replicates)):
            mask = views[chunk.index]
            log_probs = masked_log_probs(model, rows[chunk.index], mask, mask, mask_id, chunk)
            if token_log_probs is None:
                token_log_probs = log_probs.new_zeros(views.shape)
            token_log_probs[chunk.index] = log_probs
    assert token_log_probs is not None
    return mean_log_prob(token_log_probs, views, completions.eligible.sum(-1), replicates, view_weights)


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
        batch_size: rows of one forward, as in `sequence_log_prob`.

    Returns:
        float32 [B, L], nats, untempered.

    Raises:
        ValueError: order does not have the shape of the tokens; a prompt is padded elsewhere than on its left.
    """
    _check_padding(completions.prompt_mask)
    if order.shape != completions.tokens.shape:
        raise ValueError(f"order has shape {tuple(order.shape)}, the tokens {tuple(completions.tokens.shape)}")
    steps, length = int(order.max()) + 1, order.shape[1]
    row_of = torch.arange(len(order), device=order.device).unsqueeze(1)
    # One canvas for each step of each row, and the number of tokens that the step drew.
    canvases, drawn_now = (row_of * steps + order)[order >= 0].unique(return_counts=True)
    result = torch.zeros(order.shape, device=order.device)
    if not len(canvases):
        return result
    limits = PassLimits.of_rows(batch_size, completions.prompt_ids.shape[1], length)
    row, step = canvases // steps, (canvases % steps).unsqueeze(1)
    with without_dropout(model):
        for chunk in chunks(completions.prompt_mask[row], drawn_now, length, limits):
            of_chunk = row[chunk.index]
            drawn, now_at = order[of_chunk], step[chunk.index]  # [n, L], [n, 1]
            now, masked = drawn == now_at, (drawn < 0) | (drawn >= now_at)
            log_probs = masked_log_probs(model, completions[of_chunk], masked, now, mask_id, chunk, mask_id)
            result.index_add_(0, of_chunk, log_probs.float())  # a token is drawn in one canvas, and 0 in the others
    return result


@torch.no_grad()
def token_entropy(model: nn.Module, rows: Completions, mask: Tensor, *, mask_id: int, max_tokens: int = 256) -> Tensor:
    """Mean entropy in nats of the prediction at masked positions, at most `max_tokens` evenly spaced ones."""

    kept = kept_positions(mask)
    kept = kept[spaced(len(kept), max_tokens, kept.device)]

    def entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        few_rows = hidden.split(ENTROPY_ROWS)
        return torch.cat([_entropies(nn.functional.linear(rows, weight, bias).float()) for rows in few_rows]).mean()

    with without_dropout(model):
        return apply_head_to_views(model, rows, mask, mask_id, entropy, kept=kept)


def _entropies(logits: Tensor) -> Tensor:
    """Entropy of softmax of each row of logits [M, V], in nats; [M]."""
    log_probs = logits.log_softmax(-1)
    probs = torch.exp(log_probs, out=logits)
    return -probs.mul_(log_probs.clamp_(min=torch.finfo(log_probs.dtype).min)).sum(-1)


def _check_padding(prompt_mask: Tensor) -> None:
    """Raise ValueError for padding after a prompt's first token: the completion would not follow on its last one."""
    misplaced = (prompt_mask[:, :-1] & ~prompt_mask[:, 1:]).any(-1)
    if bool(misplaced.any()):
        row = int(misplaced.nonzero()[0])
        raise ValueError(f"prompt_mask must be left padding (False, then True), got padding after a token in row {row}")
