"""Masked-token cross-entropy from logits: log-probabilities and the weighted loss of masked rows only."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks
from . import operators


def masked_token_logprobs(
    logits: Tensor, targets: Tensor, mask: Tensor | None = None, *, inplace_backward: bool = False
) -> Tensor:
    """log softmax(logits)[target] at masked positions and 0 elsewhere. Any upstream gradient; no second derivative.

    logits [N, L, V] float32, bfloat16, float16 or float64, any strides (a last dimension that is not contiguous costs
    a copy of the masked rows); targets int64 [N, L]; mask bool [N, L] (None: every position) -> float32 [N, L] in
    nats (float64 for float64 logits, which take the plain PyTorch path everywhere).

    Rows that are not masked are never read: their targets may be anything, and NaN in one row stays in that row.
    Arithmetic is float32 whatever the input, under autocast too. `inplace_backward=True` writes the gradient over the
    logits. This halves the memory; the logits are lost, and a second backward raises RuntimeError. (While torch.compile
    traces, the flag is ignored: the compiler plans that memory.)

    Raises TypeError for arguments that are not tensors, and ValueError for wrong shapes, dtypes or devices. A target
    outside [0, V) at a masked position raises ValueError on the CPU. On a GPU its row becomes NaN, because a check
    would stall the stream.
    """
    _check_logits(logits, targets, mask)
    if mask is not None:
        mask = mask.contiguous()
    inplace_backward = _inplace(logits, inplace_backward)
    return operators.logprobs_op(logits, targets.contiguous(), mask, inplace_backward)[0]


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
    """Σ_n (w_n - strength · b_n) · mean NLL_n over masked tokens, and the mean NLLs (DMPO's WDCE, arXiv 2510.08233).

    logits [N, L, V], targets int64 [N, L], mask bool [N, L] as in `masked_token_logprobs`; weights and baseline [N],
    any floating type, constants -> scalar and [N], float32 (float64 for float64 logits). The loss is differentiable
    in the logits; the mean NLLs are detached.

    A row whose coefficient w - strength · b is exactly 0 is never read. Its mean NLL is 0, and so is the mean NLL of a
    row without masks. The kernels apply weights, baseline, strength and 1/m. Raises what `masked_token_logprobs`
    raises, and ValueError for weights that require grad or (on CPU tensors) are not finite.
    """
    checks.check_tensor("mask", mask)
    _check_logits(logits, targets, mask)
    checks.check_row_weights("weights", weights, logits, logits.shape[0])
    if baseline is not None:
        checks.check_row_weights("baseline", baseline, logits, logits.shape[0])
        baseline = baseline.contiguous()
    checks.check_number("strength", strength)
    inplace_backward = _inplace(logits, inplace_backward)
    out = operators.weighted_op(
        logits,
        targets.contiguous(),
        mask.contiguous(),
        weights.contiguous(),
        baseline,
        float(strength),
        inplace_backward,
    )
    return out[0], out[1]


def _check_logits(logits: Tensor, targets: Tensor, mask: Tensor | None) -> None:
    checks.check_floating("logits", logits, "NLV")
    checks.check_like("targets", targets, logits, logits.shape[:2], torch.int64)
    if mask is not None:
        checks.check_like("mask", mask, logits, logits.shape[:2], torch.bool)


def _inplace(logits: Tensor, requested: bool) -> bool:
    if not requested or torch.compiler.is_compiling():
        return False
    if any(size > 1 and stride == 0 for size, stride in zip(logits.shape, logits.stride(), strict=True)):
        raise ValueError(
            "inplace_backward: got expanded logits (a stride of 0), want logits with memory for every row; clone them"
        )
    return True
