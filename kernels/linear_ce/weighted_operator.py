"""`linear_weighted_ce` as a PyTorch operator: the forward computes the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..arithmetic import accumulation_dtype, coefficients, mean_nll
from ..head import op_context
from .frozen_head import vocabulary_pass
from .tiles import refuse_double_backward
from .trainable_head import Gradients, row_chunks


@torch.library.custom_op(
    "dmpo::linear_weighted_ce",
    mutates_args=(),
    schema="(Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, Tensor mask, Tensor weights, "
    "Tensor? baseline, float strength, int? max_logits_bytes, bool[] needs) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def weighted_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    mask: Tensor,
    weights: Tensor,
    baseline: Tensor | None,
    strength: float,
    max_logits_bytes: int | None,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss, mean NLLs, indices [R] of the live rows, and the gradients of hidden's live rows, weight and bias.

    Gradients have the accumulation dtype. The backward multiplies by the upstream scalar first and rounds once: float16
    has no room for both factors one by one."""
    checks.check_target_values(targets, mask, weight.shape[0])
    checks.check_weight_values("weights", weights)
    checks.check_weight_values("baseline", baseline)
    dtype = accumulation_dtype(hidden.dtype)
    a = coefficients(weights, baseline, strength)
    live = mask & (a != 0).unsqueeze(1)
    at = live.nonzero(as_tuple=True)  # the products need the number of rows: one synchronisation on a GPU
    row_scale = -(a.to(dtype) / mask.sum(1).clamp(min=1))[at[0]]  # [R], the coefficient of log p in the loss
    rows, row_targets = hidden[at], targets[at]  # [R, H], [R]
    with op_context(hidden):
        if needs[1] or needs[2]:
            log_probs, gradients = row_chunks(rows, weight, bias, row_targets, row_scale, needs, max_logits_bytes)
        else:
            scores = vocabulary_pass(
                rows, weight, bias, row_targets, gradient=needs[0], limit=max_logits_bytes, row_scale=row_scale
            )
            log_probs, gradients = scores.log_probs, Gradients(scores.grad_hidden, None, None)
    nll = mean_nll(hidden.new_zeros(mask.shape, dtype=dtype).index_put_(at, log_probs), mask)
    flat = at[0] * mask.shape[1] + at[1]
    of_hidden, of_weight, of_bias = (
        hidden.new_empty(0, dtype=dtype) if gradient is None else gradient
        for gradient in (gradients.hidden, gradients.weight, gradients.bias)
    )
    return (a.to(dtype) * nll).sum(), nll, flat, of_hidden, of_weight, of_bias


@weighted_op.register_fake
def _(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, mask: Tensor, weights: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dtype, needs = accumulation_dtype(hidden.dtype), rest[-1]
    loss, nll = (hidden.new_empty(shape, dtype=dtype) for shape in ((), weights.shape))
    live = torch.library.get_ctx().new_dynamic_size()
    shapes = ((live, hidden.shape[2]), weight.shape, None if bias is None else bias.shape)
    pairs = zip(shapes, needs, strict=True)
    empty = (hidden.new_empty(shape if need and shape is not None else (0,), dtype=dtype) for shape, need in pairs)
    of_hidden, of_weight, of_bias = empty
    return loss, nll, targets.new_empty(live), of_hidden, of_weight, of_bias


def _setup_weighted(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # else autograd allocates zeros for each of them, one as large as the head
    ctx.save_for_backward(*output[2:])
    ctx.shape, ctx.dtypes = inputs[0].shape, [None if x is None else x.dtype for x in inputs[:3]]


def _backward_weighted(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    refuse_double_backward()
    if grad is None:
        return (None,) * 10
    flat, *gradients = ctx.saved_tensors
    factor = grad.reshape(1)  # with a dimension its dtype takes part in promotion; `out` rounds the product once
    each = zip(gradients, ctx.dtypes, ctx.needs_input_grad[:3], strict=True)
    scaled = [torch.mul(g, factor, out=g.new_empty(g.shape, dtype=to)) if need else None for g, to, need in each]
    of_live = scaled[0]
    if of_live is not None:
        count, length, size = ctx.shape
        rows = of_live.new_zeros((count * length, size)).index_copy_(0, flat, of_live)
        scaled[0] = rows.view(count, length, size)
    return (*scaled, *(None,) * 7)


torch.library.register_autograd(weighted_op, _backward_weighted, setup_context=_setup_weighted)
