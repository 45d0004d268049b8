"""Masked cross-entropy from logits as PyTorch operators: the choice of the path, fake kernels, autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import checks, launch
from ..arithmetic import accumulation_dtype, coefficients, mean_nll
from . import plain
from . import triton_kernels as kernels


def _live(
    mask: Tensor | None, weights: Tensor | None, baseline: Tensor | None, strength: float, like: Tensor
) -> Tensor:
    """bool [N, L]: which positions are masked and lie in a row whose coefficient is not 0."""
    live = torch.ones(like.shape[:2], dtype=torch.bool, device=like.device) if mask is None else mask
    return live if weights is None else live & (coefficients(weights, baseline, strength) != 0).unsqueeze(1)


def _forward(
    logits: Tensor,
    targets: Tensor,
    mask: Tensor | None,
    weights: Tensor | None,
    baseline: Tensor | None,
    strength: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """log_probs, row_max and log_sum [N, L], zeros in dead rows; float32, or float64 for float64 logits."""
    if not launch.uses_triton(logits):
        return plain.forward(logits, targets, _live(mask, weights, baseline, strength, logits))
    if logits.stride(-1) == 1:
        return kernels.forward(logits, targets, mask, weights, baseline, strength)
    live = _live(mask, weights, baseline, strength, logits)  # rows are not contiguous: copy the live ones
    rows = kernels.forward(logits[live].unsqueeze(1), targets[live].unsqueeze(1), None, None, None, 0.0)
    zeros = [x.new_zeros(live.shape) for x in rows]
    for x, row in zip(zeros, rows, strict=True):
        x[live] = row.squeeze(1)
    return zeros[0], zeros[1], zeros[2]


def _fills_dead_rows(logits: Tensor) -> bool:
    """True if one kernel writes the gradient of every row; else only live rows are written."""
    return launch.uses_triton(logits) and logits.stride(-1) == 1


def _backward(
    logits: Tensor,
    targets: Tensor,
    mask: Tensor | None,
    row_max: Tensor,
    log_sum: Tensor,
    grad: Tensor,
    scale: Tensor | None,
    *,
    out: Tensor,
) -> None:
    """Write the gradient of every row, zeros in dead rows, into `out`: memory of `backward_op`, or `logits`."""
    if _fills_dead_rows(logits):
        kernels.backward(logits, targets, mask, row_max, log_sum, grad.contiguous(), scale, out)
        return
    c = grad if scale is None else (-grad * scale).unsqueeze(1).expand(targets.shape)
    live = c != 0 if mask is None else (c != 0) & mask
    if out is logits:
        out[~live] = 0
    if not launch.uses_triton(logits):
        plain.backward(logits, targets, live, row_max, log_sum, c, out)
        return
    rows = logits[live].unsqueeze(1)
    picked = (x[live].unsqueeze(1) for x in (targets, row_max, log_sum, c))
    target, top, log_total, factor = (x.contiguous() for x in picked)
    kernels.backward(rows, target, None, top, log_total, factor, None, rows)
    out[live] = rows.squeeze(1)


@torch.library.custom_op(
    "dmpo::masked_token_logprobs",
    mutates_args=(),
    schema="(Tensor logits, Tensor targets, Tensor? mask, bool inplace_backward) -> (Tensor, Tensor, Tensor)",
)
def logprobs_op(
    logits: Tensor, targets: Tensor, mask: Tensor | None, inplace_backward: bool
) -> tuple[Tensor, Tensor, Tensor]:
    checks.check_target_values(targets, mask, logits.shape[-1])
    with launch.on_device(logits):
        return _forward(logits, targets, mask, None, None, 0.0)


@logprobs_op.register_fake
def _(logits: Tensor, targets: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    log_probs, row_max, log_sum = (
        logits.new_empty(targets.shape, dtype=accumulation_dtype(logits.dtype)) for _ in range(3)
    )
    return log_probs, row_max, log_sum


@torch.library.custom_op(
    "dmpo::weighted_masked_ce",
    mutates_args=(),
    schema="(Tensor logits, Tensor targets, Tensor mask, Tensor weights, Tensor? baseline, float strength, "
    "bool inplace_backward) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def weighted_op(
    logits: Tensor,
    targets: Tensor,
    mask: Tensor,
    weights: Tensor,
    baseline: Tensor | None,
    strength: float,
    inplace_backward: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    checks.check_target_values(targets, mask, logits.shape[-1])
    checks.check_weight_values("weights", weights)
    checks.check_weight_values("baseline", baseline)
    with launch.on_device(logits):
        log_probs, row_max, log_sum = _forward(logits, targets, mask, weights, baseline, strength)
        if launch.uses_triton(logits):
            loss, nll, scale = kernels.weighted_mean_nll(log_probs, mask, weights, baseline, strength)
            return loss, nll, scale, row_max, log_sum
    nll = mean_nll(log_probs, mask)
    a = coefficients(weights, baseline, strength).to(nll.dtype)
    return (a * nll).sum(), nll, a / mask.sum(-1).clamp(min=1), row_max, log_sum


@weighted_op.register_fake
def _(
    logits: Tensor, targets: Tensor, mask: Tensor, weights: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    shapes = ((), weights.shape, weights.shape, targets.shape, targets.shape)
    loss, nll, scale, row_max, log_sum = (
        logits.new_empty(shape, dtype=accumulation_dtype(logits.dtype)) for shape in shapes
    )
    return loss, nll, scale, row_max, log_sum


# Arguments of `_backward`.
_BACKWARD_ARGUMENTS = "Tensor targets, Tensor? mask, Tensor row_max, Tensor log_sum, Tensor grad, Tensor? scale"


@torch.library.custom_op(
    "dmpo::masked_ce_backward", mutates_args=(), schema=f"(Tensor logits, {_BACKWARD_ARGUMENTS}) -> Tensor"
)
def backward_op(logits: Tensor, *arguments: Any) -> Tensor:
    out = logits.new_empty(logits.shape) if _fills_dead_rows(logits) else logits.new_zeros(logits.shape)
    with launch.on_device(logits):
        _backward(logits, *arguments, out=out)
    return out


@backward_op.register_fake
def _(logits: Tensor, *_: Any) -> Tensor:
    return logits.new_empty(logits.shape)


@torch.library.custom_op(
    "dmpo::masked_ce_backward_", mutates_args=("logits",), schema=f"(Tensor(a!) logits, {_BACKWARD_ARGUMENTS}) -> ()"
)
def inplace_backward_op(logits: Tensor, *arguments: Any) -> None:
    with launch.on_device(logits):
        _backward(logits, *arguments, out=logits)


def _setup(
    ctx: Any, logits: Tensor, targets: Tensor, mask: Tensor | None, stats: Sequence[Tensor], inplace: bool
) -> None:
    ctx.set_materialize_grads(False)  # else zeros for each output without a gradient
    ctx.save_for_backward(logits, targets, mask, *stats)
    ctx.inplace = inplace
    ctx.overwritten = False


def _setup_logprobs(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, targets, mask, inplace = inputs
    _, row_max, log_sum = output
    ctx.mark_non_differentiable(row_max, log_sum)
    _setup(ctx, logits, targets, mask, (row_max, log_sum), inplace)


def _setup_weighted(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, targets, mask, inplace = *inputs[:3], inputs[-1]
    _, nll, scale, row_max, log_sum = output
    ctx.mark_non_differentiable(nll, scale, row_max, log_sum)
    _setup(ctx, logits, targets, mask, (row_max, log_sum, scale), inplace)


def _autograd_backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    unused = (None,) * (len(ctx.needs_input_grad) - 1)
    if grad is None:
        return (None, *unused)
    if not ctx.inplace:
        logits, targets, mask, row_max, log_sum, *scale = ctx.saved_tensors
        return (backward_op(logits, targets, mask, row_max, log_sum, grad, *(scale or [None])), *unused)
    if ctx.overwritten:
        raise RuntimeError(
            "inplace_backward=True: got a second backward, but the first one overwrote the logits with their gradient; "
            "use inplace_backward=False to go backward twice through one graph"
        )
    if torch.is_grad_enabled():
        raise RuntimeError(
            "inplace_backward=True: got create_graph=True, which needs the logits that the backward overwrites; "
            "use inplace_backward=False"
        )
    logits, targets, mask, row_max, log_sum, *scale = ctx.saved_tensors
    ctx.overwritten = True
    gradient = logits.detach()
    inplace_backward_op(gradient, targets, mask, row_max, log_sum, grad, *(scale or [None]))
    return (gradient, *unused)


def _no_double_backward(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError(
        "masked cross-entropy has no second derivative: its backward is not differentiable; use dmpo.kernels.reference"
    )


torch.library.register_autograd(logprobs_op, _autograd_backward, setup_context=_setup_logprobs)
torch.library.register_autograd(weighted_op, _autograd_backward, setup_context=_setup_weighted)
torch.library.register_autograd(backward_op, _no_double_backward)
