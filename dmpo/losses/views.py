"""Views of a loss on plain tensors: their log-probabilities, their weights, and what their shapes must be.

Rows are views: row = replicate · B + sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels import linear_token_logprobs, masked_token_logprobs


def mean_log_prob(
    log_probs: Tensor, mask: Tensor, length: Tensor | int, replicates: int, view_weights: Tensor | None = None
) -> Tensor:
    """Monte-Carlo ELBO: mean over views of (length / m) · Σ_masked log p (docs/maths.md, section 4).

    log_probs [R·B, L] (0 where not masked), mask bool [R·B, L], length: tokens that count, int or [B] -> [B].
    view_weights: [R·B], what each view counts in the mean; None: 1.
    """
    per_token = weighted(log_probs.sum(-1) / mask.sum(-1).clamp(min=1), view_weights)  # [R·B]
    return per_token.view(replicates, -1).mean(0) * length


def weighted(of_views: Tensor, view_weights: Tensor | None) -> Tensor:
    """Values of views [R·B] times the weights of the views [R·B], in the dtype of the values; None: as they are."""
    return of_views if view_weights is None else of_views * view_weights.to(of_views.dtype)


def spread_over_views(values: Tensor, replicates: int) -> Tensor:
    """Per-completion values [B] or [groups, G] as per-row weights [R·B], divided by R and by the number of groups.

    Summed over rows they give (1/R) Σ_k Σ_i within a group and the mean over groups (docs/maths.md, section 5).
    """
    groups = 1 if values.dim() == 1 else values.shape[0]
    return (values / (replicates * groups)).flatten().repeat(replicates)


def logits_token_logprobs(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """log p of each target where masked, 0 elsewhere; [N, L, V], [N, L], bool [N, L] -> float32 [N, L]."""
    return masked_token_logprobs(logits, targets, mask)


def hidden_token_logprobs(
    hidden: Tensor, lm_head_weight: Tensor, targets: Tensor, mask: Tensor, *, bias: Tensor | None = None
) -> Tensor:
    """`logits_token_logprobs` of hidden [N, L, H], lm_head_weight [V, H] and its bias [V], without the logits."""
    rows = linear_token_logprobs(hidden[mask], lm_head_weight, targets[mask], bias=bias)
    return rows.new_zeros(targets.shape).masked_scatter(mask, rows)


def check_views(
    targets: Tensor,
    mask: Tensor,
    replicates: int,
    weights: Tensor,
    view_weights: Tensor | None = None,
    **like_weights: Tensor | None,
) -> None:
    """Raise ValueError or TypeError, naming the argument, unless views, weights and what is shaped like them agree."""
    if weights.dim() not in (1, 2) or replicates * weights.numel() != targets.shape[0]:
        raise ValueError(
            f"weights must be [B] or [groups, G] with replicates · B = {targets.shape[0]} rows, "
            f"got shape {tuple(weights.shape)} and replicates {replicates}"
        )
    for name, value in like_weights.items():
        if value is not None and value.shape != weights.shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, weights has {tuple(weights.shape)}")
    check_view_weights(view_weights, targets.shape[0])
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be bool, got {mask.dtype}")
    if mask.shape != targets.shape:
        raise ValueError(f"mask has shape {tuple(mask.shape)}, targets has {tuple(targets.shape)}")


def check_view_weights(view_weights: Tensor | None, rows: int) -> None:
    """Raise ValueError or TypeError unless there are none, or a floating one for each of the rows."""
    if view_weights is None:
        return
    if view_weights.shape != (rows,):
        raise ValueError(f"view_weights must have one for each of {rows} views, got shape {tuple(view_weights.shape)}")
    if not view_weights.is_floating_point():
        raise TypeError(f"view_weights must be floating point, got {view_weights.dtype}")
