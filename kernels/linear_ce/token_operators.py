"""`linear_token_logprobs` as PyTorch operators: the forward computes the gradient, or the backward recomputes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..arithmetic import accumulation_dtype
from ..head import op_context
from .frozen_head import vocabulary_pass
from .tiles import refuse_double_backward
from .trainable_head import Gradients, recompute


@torch.library.custom_op(
    "dmpo::linear_token_logprobs",
    mutates_args=(),
    schema="(Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, int? max_logits_bytes, "
    "bool keep_gradient) -> (Tensor, Tensor, Tensor, Tensor)",
)
def logprobs_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    max_logits_bytes: int | None,
    keep_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    checks.check_target_values(targets, None, weight.shape[0])
    with op_context(hidden):
        scores = vocabulary_pass(hidden, weight, bias, targets, gradient=keep_gradient, limit=max_logits_bytes)
    gradient = scores.grad_hidden
    if gradient is None:
        gradient = hidden.new_empty(0, dtype=accumulation_dtype(hidden.dtype))
    return scores.log_probs, scores.row_max, scores.log_sum, gradient


@logprobs_op.register_fake
def _(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, limit: int | None, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = accumulation_dtype(hidden.dtype)
    log_probs, row_max, log_sum = (hidden.new_empty(targets.shape, dtype=dtype) for _ in range(3))
    return log_probs, row_max, log_sum, hidden.new_empty(hidden.shape if keep else (0,), dtype=dtype)


@torch.library.custom_op(
    "dmpo::linear_token_logprobs_backward",
    mutates_args=(),
    schema="(Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, Tensor row_max, Tensor log_sum, Tensor grad, "
    "bool[] needs, int? max_logits_bytes) -> (Tensor, Tensor, Tensor)",
)
def recompute_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    row_max: Tensor,
    log_sum: Tensor,
    grad: Tensor,
    needs: Sequence[bool],
    max_logits_bytes: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    with op_context(hidden):
        live = (grad != 0).nonzero().squeeze(1)
        stats, row_scale = (row_max[live], log_sum[live]), grad[live].to(row_max.dtype)
        of_live = recompute(hidden[live], weight, bias, targets[live], stats, row_scale, needs, max_logits_bytes)
        if of_live.hidden is not None:
            of_live.hidden = hidden.new_zeros(hidden.shape).index_copy_(0, live, of_live.hidden.to(hidden.dtype))
    return _as_outputs(of_live, hidden, weight, bias)


@recompute_op.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    *_, needs, _ = rest
    return _empty_outputs(hidden, weight, bias, needs)


def _as_outputs(gradients: Gradients, *inputs: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients in the dtypes of (hidden, weight, bias); an empty tensor for a missing gradient."""
    like = inputs[0]
    assert like is not None
    pairs = zip((gradients.hidden, gradients.weight, gradients.bias), inputs, strict=True)
    of_hidden, of_weight, of_bias = (like.new_empty(0) if g is None or x is None else g.to(x.dtype) for g, x in pairs)
    return of_hidden, of_weight, of_bias


def _empty_outputs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, needs: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    pairs = zip((hidden, weight, bias), needs, strict=True)
    empty = (x.new_empty(x.shape) if need and x is not None else hidden.new_empty(0) for x, need in pairs)
    of_hidden, of_weight, of_bias = empty
    return of_hidden, of_weight, of_bias


def _setup_logprobs(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, bias, targets, max_logits_bytes, keep_gradient = inputs
    _, row_max, log_sum, gradient = output
    ctx.mark_non_differentiable(row_max, log_sum, gradient)
    ctx.set_materialize_grads(False)  # else autograd allocates zeros for each of these outputs
    ctx.keep_gradient, ctx.max_logits_bytes, ctx.dtype = keep_gradient, max_logits_bytes, hidden.dtype
    saved = (gradient,) if keep_gradient else (hidden, weight, bias, targets, row_max, log_sum)
    ctx.save_for_backward(*saved)


def _backward_logprobs(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    refuse_double_backward()
    if grad is None:
        return (None,) * 6
    if ctx.keep_gradient:
        (gradient,) = ctx.saved_tensors
        scale = grad.unsqueeze(1)
        scaled = (gradient * scale).to(ctx.dtype)
        scaled.masked_fill_(scale == 0, 0.0)  # NaN of a row on which the loss does not depend
        return scaled, None, None, None, None, None
    hidden, weight, bias, targets, row_max, log_sum = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[:3])
    grads = recompute_op(hidden, weight, bias, targets, row_max, log_sum, grad, needs, ctx.max_logits_bytes)
    return (*(g if need else None for g, need in zip(grads, needs, strict=True)), None, None, None)


torch.library.register_autograd(logprobs_op, _backward_logprobs, setup_context=_setup_logprobs)
