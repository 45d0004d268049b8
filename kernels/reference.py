"""Plain PyTorch definitions of every kernel: short and slow. They define what is correct.

Each function has the signature of its public name in `dmpo.kernels`. Arithmetic runs in float64 for float64 inputs
and in float32 for everything else.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .arithmetic import coefficients, mean_nll, widened
from .random_numbers import exponentials, uniform


def masked_token_logprobs(
    logits: Tensor, targets: Tensor, mask: Tensor | None = None, *, inplace_backward: bool = False
) -> Tensor:
    """log softmax(logits)[target] where masked, 0 elsewhere; [N, L]."""
    logits = widened(logits)
    if mask is not None:  # dead rows and their targets may be anything: NaN, -100
        logits, targets = logits.masked_fill(~mask.unsqueeze(-1), 0.0), targets.masked_fill(~mask, 0)
    log_probs = logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return log_probs if mask is None else log_probs.masked_fill(~mask, 0.0)


def linear_token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    max_logits_bytes: int | None = None,
) -> Tensor:
    """`masked_token_logprobs` of `hidden @ weight.T + bias`; [M]."""
    logits = torch.nn.functional.linear(widened(hidden), widened(weight), None if bias is None else widened(bias))
    return masked_token_logprobs(logits, targets)


def weighted_masked_ce(
    logits: Tensor,
    targets: Tensor,
    mask: Tensor,
    weights: Tensor,
    baseline: Tensor | None = None,
    strength: float = 1.0,
    *,
    inplace_backward: bool = False,
) -> tuple[Tensor, Tensor]:
    """sum_n a_n * mean NLL_n with a = w - s * b, and the mean NLLs, detached; scalar, [N]. A row with a = 0 is not
    read, and its mean NLL is 0."""
    a = coefficients(weights, baseline, strength)
    mask = mask & (a != 0).unsqueeze(1)
    nll = mean_nll(masked_token_logprobs(logits, targets, mask), mask)
    return (a.to(nll.dtype) * nll).sum(), nll.detach()


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
    max_logits_bytes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`weighted_masked_ce` of `hidden @ weight.T + bias`."""
    hidden = hidden.masked_fill(~mask.unsqueeze(-1), 0.0)  # NaN in a dead row must not reach the gradient of the head
    logits = torch.nn.functional.linear(widened(hidden), widened(weight), None if bias is None else widened(bias))
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
    risk: float | None = None,
) -> Tensor:
    """Unmask by count, threshold, factor or risk, one row and one position at a time; returns int32 [B]."""
    unmasked = torch.zeros(tokens.shape[0], dtype=torch.int32, device=tokens.device)
    for row in range(tokens.shape[0]):
        masked = (tokens[row] == mask_id).nonzero().flatten().tolist()
        score = {j: float(confidence[row, j]) for j in masked}
        score = {j: float("-inf") if s != s else s for j, s in score.items()}  # NaN ranks last
        order = sorted(masked, key=lambda j: (-score[j], j))
        count = int(num_transfer[row]) if isinstance(num_transfer, Tensor) else num_transfer or 0
        if risk is not None:
            count, spent = max(1, count), 0.0
            for n, j in enumerate(order):
                spent += 1 - score[j]
                if n >= count and not (score[j] > risk and spent <= 1 - risk):
                    break
                count = max(count, n + 1)
        elif num_transfer is not None:
            pass
        elif threshold is not None:
            count = max(1, sum(score[j] >= threshold for j in masked))
        else:
            assert factor is not None
            count = 1
            while count < len(order) and score[order[count]] >= 1 - factor / (count + 2):
                count += 1
        for j in order[:count]:
            tokens[row, j] = candidates[row, j]
        unmasked[row] = min(count, len(order))
    return unmasked


def sample_tokens(
    logits: Tensor,
    temperature: float,
    *,
    seed: int,
    row_ids: Tensor | None = None,
    forbid: Sequence[int] = (),
    mode: str = "cdf",
) -> tuple[Tensor, Tensor]:
    """One token a row from softmax(logits / T), and its untempered probability; int64 [M], float32 [M].

    Forbidden tokens are logits of -inf, in the draw and in the probability; +inf is the largest finite number.
    `cdf` takes the first token whose cumulative probability exceeds the row's uniform; `gumbel` takes the winner of
    one exponential race over all tokens; T = 0 takes the first largest logit. A row with a NaN, or with nothing but
    -inf, gives the lowest allowed token and probability NaN.
    """
    logits = widened(logits).clamp(max=torch.finfo(widened(logits).dtype).max)
    logits[:, list(forbid)] = float("-inf")
    logits = logits - logits.amax(-1, keepdim=True)  # before the division: (l - max) / T keeps its digits
    probs = logits.softmax(-1)  # NaN throughout for a row that has no distribution
    rows = torch.arange(len(logits), device=logits.device) if row_ids is None else row_ids
    if temperature == 0:
        ids = logits.argmax(-1)
    elif mode == "gumbel":
        race = exponentials(seed, rows, logits.shape[-1]).to(logits.dtype)
        ids = (logits / temperature - race.log()).argmax(-1)
    else:
        tempered = (logits / temperature).softmax(-1)
        cdf = tempered.double().cumsum(-1)
        ids = torch.searchsorted(cdf, uniform(seed, rows).unsqueeze(-1) * cdf[:, -1:], right=True).squeeze(-1)
        last = torch.where(tempered > 0, torch.arange(logits.shape[-1], device=logits.device), 0).amax(-1)
        ids = torch.minimum(ids, last)  # u * cdf[-1] may round up to cdf[-1]
    allowed = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
    allowed[list(forbid)] = False
    ids = torch.where(probs.isnan().any(-1), allowed.int().argmax(-1), ids)
    return ids, probs.gather(-1, ids.unsqueeze(-1)).squeeze(-1).float()


def sample_tokens_with_entropy(
    logits: Tensor, temperature: float, *, seed: int, row_ids: Tensor | None = None, forbid: Sequence[int] = ()
) -> tuple[Tensor, Tensor, Tensor]:
    """`sample_tokens`, and `row_entropy`."""
    drawn = sample_tokens(logits, temperature, seed=seed, row_ids=row_ids, forbid=forbid)
    return *drawn, row_entropy(logits, forbid)


def row_entropy(logits: Tensor, forbid: Sequence[int] = ()) -> Tensor:
    """-Σ p log p in nats of p = softmax(logits) over the allowed tokens; float32 [M]. Infinities as in `sample_tokens`,
    NaN where that gives a probability NaN."""
    logits = widened(logits).clamp(max=torch.finfo(widened(logits).dtype).max)
    logits[:, list(forbid)] = float("-inf")
    log_probs = (logits - logits.amax(-1, keepdim=True)).log_softmax(-1)
    return -(log_probs.exp() * log_probs.masked_fill(log_probs == float("-inf"), 0.0)).sum(-1).float()


def revoke_(tokens: Tensor, confidence: Tensor, *, mask_id: int, threshold: float, limit: int | Tensor) -> Tensor:
    """Mask tokens below the threshold again, the least confident first, at most `limit` of a row; int32 [B]."""
    revoked = torch.zeros(tokens.shape[0], dtype=torch.int32, device=tokens.device)
    for row in range(tokens.shape[0]):
        token, score = tokens[row].tolist(), confidence[row].tolist()
        below = [j for j in range(len(token)) if token[j] != mask_id and score[j] < threshold]
        order = sorted(below, key=lambda j: (score[j], j))
        chosen = order[: int(limit[row]) if isinstance(limit, Tensor) else limit]
        tokens[row, chosen] = mask_id
        revoked[row] = len(chosen)
    return revoked


def linear_sample_tokens(
    hidden: Tensor,
    weight: Tensor,
    temperature: float,
    *,
    seed: int,
    row_ids: Tensor | None = None,
    forbid: Sequence[int] = (),
    bias: Tensor | None = None,
    max_logits_bytes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`sample_tokens` of `hidden @ weight.T + bias`."""
    hidden = widened(hidden)
    logits = torch.nn.functional.linear(hidden, widened(weight), None if bias is None else bias.to(hidden.dtype))
    return sample_tokens(logits, temperature, seed=seed, row_ids=row_ids, forbid=forbid)


def linear_sample_tokens_with_entropy(
    hidden: Tensor,
    weight: Tensor,
    temperature: float,
    *,
    seed: int,
    row_ids: Tensor | None = None,
    forbid: Sequence[int] = (),
    bias: Tensor | None = None,
    max_logits_bytes: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`sample_tokens_with_entropy` of `hidden @ weight.T + bias`."""
    hidden = widened(hidden)
    logits = torch.nn.functional.linear(hidden, widened(weight), None if bias is None else bias.to(hidden.dtype))
    return sample_tokens_with_entropy(logits, temperature, seed=seed, row_ids=row_ids, forbid=forbid)
