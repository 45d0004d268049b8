"""Plain PyTorch definitions of every kernel: short, slow, and the meaning of "correct".

Each function has the signature of its public name in `dmpo.kernels`. Arithmetic runs in float64 for float64 inputs and in
float32 for everything else.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def masked_token_logprobs(
    logits: Tensor, targets: Tensor, mask: Tensor | None = None, *, inplace_backward: bool = False
) -> Tensor:
    """log softmax(logits)[target] where masked, 0 elsewhere; [N, L]."""
    log_probs = _wide(logits).log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return log_probs if mask is None else log_probs.masked_fill(~mask, 0.0)


def linear_token_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, bias: Tensor | None = None, max_logits_bytes: int = 0
) -> Tensor:
    """`masked_token_logprobs` of `hidden @ weight.T + bias`; [M]."""
    logits = torch.nn.functional.linear(_wide(hidden), _wide(weight), None if bias is None else _wide(bias))
    return masked_token_logprobs(logits, targets)


def coefficients(weights: Tensor, baseline: Tensor | None, strength: float) -> Tensor:
    """a = w - s * b (algorithm, section 4)."""
    return weights if baseline is None else weights - strength * baseline


def mean_nll(log_probs: Tensor, mask: Tensor) -> Tensor:
    """Per-row mean of -log p over masked positions, 0 for a row without any; [N, L] -> [N]."""
    return -(log_probs * mask).sum(-1) / mask.sum(-1).clamp(min=1)


def weighted_masked_ce(
    logits: Tensor,
    targets: Tensor,
    mask: Tensor,
    weights: Tensor,
    baseline: Tensor | None = None,
    strength: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """sum_n (w_n - s * b_n) * mean NLL_n, and the mean NLLs; scalar, [N]."""
    nll = mean_nll(masked_token_logprobs(logits, targets, mask), mask)
    return (coefficients(weights, baseline, strength).to(nll.dtype) * nll).sum(), nll


def linear_weighted_ce(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    mask: Tensor,
    weights: Tensor,
    baseline: Tensor | None = None,
    strength: float = 1.0,
    *,
    bias: Tensor | None = None,
    max_logits_bytes: int = 0,
) -> tuple[Tensor, Tensor]:
    """`weighted_masked_ce` of `hidden @ weight.T + bias`."""
    logits = torch.nn.functional.linear(_wide(hidden), _wide(weight), None if bias is None else _wide(bias))
    return weighted_masked_ce(logits, targets, mask, weights, baseline, strength)


def remask_(
    tokens: Tensor,
    candidates: Tensor,
    confidence: Tensor,
    *,
    mask_id: int,
    num_transfer: int | Tensor | None = None,
    threshold: float | None = None,
    factor: float | None = None,
) -> Tensor:
    """Unmask by count, threshold or factor, one row and one position at a time; returns int32 [B]."""
    moved = torch.zeros(tokens.shape[0], dtype=torch.int32, device=tokens.device)
    for row in range(tokens.shape[0]):
        masked = (tokens[row] == mask_id).nonzero().flatten().tolist()
        score = {j: float(confidence[row, j]) for j in masked}
        score = {j: float("-inf") if s != s else s for j, s in score.items()}  # NaN ranks last
        order = sorted(masked, key=lambda j: (-score[j], j))
        if num_transfer is not None:
            count = int(num_transfer[row]) if isinstance(num_transfer, Tensor) else num_transfer
        elif threshold is not None:
            count = max(1, sum(score[j] >= threshold for j in masked))
        else:
            assert factor is not None
            count = 1
            while count < len(order) and score[order[count]] >= 1 - factor / (count + 2):
                count += 1
        for j in order[:count]:
            tokens[row, j] = candidates[row, j]
        moved[row] = min(count, len(order))
    return moved


def sample_tokens(
    logits: Tensor,
    temperature: float,
    *,
    seed: int,
    row_ids: Tensor | None = None,
    forbid: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """Draw from softmax(logits / T) by inverse CDF with one uniform a row, and the untempered probability of the draw."""
    logits = _wide(logits).clone()
    if forbid:
        logits[:, list(forbid)] = float("-inf")
    if temperature == 0:
        ids = logits.argmax(-1)
    else:
        rows = torch.arange(len(logits), device=logits.device) if row_ids is None else row_ids
        cdf = (logits / temperature).softmax(-1).double().cumsum(-1)
        u = uniform(seed, rows).unsqueeze(-1) * cdf[:, -1:]
        ids = torch.searchsorted(cdf, u, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)
    return ids, logits.softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def _mix(x: Tensor) -> Tensor:
    """splitmix64 finaliser (Steele, Lea & Flood 2014) on wrapping int64."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x


def uniform(seed: int, row_ids: Tensor) -> Tensor:
    """Counter-based uniforms in [0, 1), float64, a function of (seed, row id) alone; [M] -> [M]."""
    key = _mix(torch.tensor(seed, dtype=torch.int64, device=row_ids.device) + 0x1E3779B97F4A7C15)
    return ((_mix(_mix(row_ids.long()) ^ key) >> 11) & ((1 << 53) - 1)).double() * 2.0**-53
