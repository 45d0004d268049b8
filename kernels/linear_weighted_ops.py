"""`linear_weighted_ce` as a PyTorch operator: its gradient is made in the forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import checks
from . import linear_ce_tiles as tiles
from .linear_ce_sweep import sweep
from .linear_ce_trained import Gradients, row_chunks
from .reference import coefficients, mean_nll, wide


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
    """Loss, mean NLLs, indices [R] of the live rows, and the gradients of hidden's live rows, weight and bias: wide,
    for the backward to round once, after the upstream scalar (float16 has no room for both factors one by one)."""
    checks.check_target_values(targets, mask, weight.shape[0])
    checks.check_weight_values("weights", weights)
    checks.check_weight_values("baseline", baseline)
    dtype = wide(hidden.dtype)
    a = coefficients(weights, baseline, strength)
    live = mask & (a != 0).unsqueeze(1)
    at = live.nonzero(as_tuple=True)  # the sizes of the products: one synchronisation on a GPU
    c = (a.to(dtype) / mask.sum(1).clamp(min=1))[at[0]]  # [R]
    rows, wanted = hidden[at], targets[at]  # [R, H], [R]
    with tiles.settings(hidden):
        if needs[1] or needs[2]:
            log_probs, found = row_chunks(rows, weight, bias, wanted, -c, needs, max_logits_bytes)
        else:
            swept = sweep(rows, weight, bias, wanted, gradient=needs[0], limit=max_logits_bytes, c=-c)
            log_probs, found = swept.log_probs, Gradients(swept.gradient, None, None)
    nll = mean_nll(hidden.new_zeros(mask.shape, dtype=dtype).index_put_(at, log_probs), mask)
    flat = at[0] * mask.shape[1] + at[1]
    slopes = (hidden.new_empty(0, dtype=dtype) if g is None else g for g in (found.hidden, found.weight, found.bias))
    return ((a.to(dtype) * nll).sum(), nll, flat, *slopes)  # type: ignore[return-value]


@weighted_op.register_fake
def _(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, mask: Tensor, weights: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dtype, needs = wide(hidden.dtype), rest[-1]
    loss, nll = (hidden.new_empty(shape, dtype=dtype) for shape in ((), weights.shape))
    live = torch.library.get_ctx().new_dynamic_size()
    shapes = ((live, hidden.shape[2]), weight.shape, None if bias is None else bias.shape)
    parts = zip(shapes, needs, strict=True)
    slopes = [hidden.new_empty(x if need and x is not None else (0,), dtype=dtype) for x, need in parts]
    return loss, nll, targets.new_empty(live), slopes[0], slopes[1], slopes[2]


def _setup_weighted(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # else zeros for each of those, one as large as the head
    ctx.save_for_backward(*output[2:])
    ctx.shape, ctx.dtypes = inputs[0].shape, [None if x is None else x.dtype for x in inputs[:3]]


def _backward_weighted(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    tiles.refuse_double_backward()
    if grad is None:
        return (None,) * 10
    flat, *slopes = ctx.saved_tensors
    factor = grad.reshape(1)  # a dimension, so that it takes part in the type of the product; `out` rounds that once
    parts = zip(slopes, ctx.dtypes, ctx.needs_input_grad[:3], strict=True)
    found = [torch.mul(g, factor, out=g.new_empty(g.shape, dtype=to)) if need else None for g, to, need in parts]
    if found[0] is not None:
        count, length, size = ctx.shape
        rows = found[0].new_zeros((count * length, size)).index_copy_(0, flat, found[0])
        found[0] = rows.view(count, length, size)
    return (*found, *(None,) * 7)


torch.library.register_autograd(weighted_op, _backward_weighted, setup_context=_setup_weighted)
