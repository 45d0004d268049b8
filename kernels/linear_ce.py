"""Masked-token cross-entropy from hidden states and lm_head: logits exist for masked rows only, a bounded piece at a
time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from . import checks, launch, linear_ce_triton
from . import linear_ce_tiles as tiles
from .reference import coefficients, mean_nll, wide

production = linear_ce_triton.production


@contextmanager
def _settings(hidden: Tensor) -> Iterator[None]:
    """Inside an op: products in the dtype they are given, launches where the tensors are."""
    with torch.autocast(hidden.device.type, enabled=False), launch.on_device(hidden):
        yield


# ---------------------------------------------------------------------------------------------- log-probabilities


@torch.library.custom_op(
    "dmpo::linear_token_logprobs",
    mutates_args=(),
    schema="(Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, int? max_logits_bytes, float skip_below, "
    "bool keep_gradient) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _logprobs_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    max_logits_bytes: int | None,
    skip_below: float,
    keep_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    checks.check_target_values(targets, None, weight.shape[0])
    with _settings(hidden):
        found = tiles.sweep(
            hidden, weight, bias, targets, gradient=keep_gradient, limit=max_logits_bytes, skip_below=skip_below
        )
    gradient = hidden.new_empty(0, dtype=wide(hidden.dtype)) if found.gradient is None else found.gradient
    return found.log_probs, found.row_max, found.log_sum, gradient


@_logprobs_op.register_fake
def _(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, limit: int | None, skip: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    log_probs, row_max, log_sum = (hidden.new_empty(targets.shape, dtype=wide(hidden.dtype)) for _ in range(3))
    return (
        log_probs,
        row_max,
        log_sum,
        hidden.new_empty(hidden.shape if keep else (0,), dtype=wide(hidden.dtype)),
    )


@torch.library.custom_op(
    "dmpo::linear_token_logprobs_backward",
    mutates_args=(),
    schema="(Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, Tensor row_max, Tensor log_sum, Tensor grad, "
    "bool[] needs, int? max_logits_bytes) -> (Tensor, Tensor, Tensor)",
)
def _recompute_op(
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
    with _settings(hidden):
        live = (grad != 0).nonzero().squeeze(1)
        stats, c = (row_max[live], log_sum[live]), grad[live].to(row_max.dtype)
        found = tiles.recompute(hidden[live], weight, bias, targets[live], stats, c, needs, max_logits_bytes)
        if found.hidden is not None:
            found.hidden = hidden.new_zeros(hidden.shape).index_copy_(0, live, found.hidden.to(hidden.dtype))
    return _as_outputs(found, hidden, weight, bias)


@_recompute_op.register_fake
def _(
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
    return _empty_outputs(hidden, weight, bias, needs)


def _as_outputs(found: tiles.Gradients, *inputs: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients in the dtypes of (hidden, weight, bias); empty tensors where there are none."""
    like = inputs[0]
    assert like is not None
    parts = zip((found.hidden, found.weight, found.bias), inputs, strict=True)
    made = [like.new_empty(0) if g is None or x is None else g.to(x.dtype) for g, x in parts]
    return made[0], made[1], made[2]


def _empty_outputs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, needs: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    parts = zip((hidden, weight, bias), needs, strict=True)
    made = [x.new_empty(x.shape) if need and x is not None else hidden.new_empty(0) for x, need in parts]
    return made[0], made[1], made[2]


def _setup_logprobs(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, bias, targets, max_logits_bytes, _, keep_gradient = inputs
    _, row_max, log_sum, gradient = output
    ctx.mark_non_differentiable(row_max, log_sum, gradient)
    ctx.keep_gradient, ctx.max_logits_bytes, ctx.dtype = keep_gradient, max_logits_bytes, hidden.dtype
    saved = (gradient,) if keep_gradient else (hidden, weight, bias, targets, row_max, log_sum)
    ctx.save_for_backward(*saved)


def _backward_logprobs(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    _refuse_double_backward()
    if ctx.keep_gradient:
        (gradient,) = ctx.saved_tensors
        scale = grad.unsqueeze(1)
        scaled = torch.where(scale == 0, 0.0, gradient * scale)  # a NaN row that nothing depends on stays out
        return scaled.to(ctx.dtype), None, None, None, None, None, None
    hidden, weight, bias, targets, row_max, log_sum = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[:3])
    grads = _recompute_op(hidden, weight, bias, targets, row_max, log_sum, grad, needs, ctx.max_logits_bytes)
    return (*(g if need else None for g, need in zip(grads, needs, strict=True)), None, None, None, None)


def _refuse_double_backward() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "linear cross-entropy keeps its gradient, not the graph of it: no double backward (create_graph=True); "
            "use dmpo.kernels.reference for second derivatives"
        )


torch.library.register_autograd(_logprobs_op, _backward_logprobs, setup_context=_setup_logprobs)


# ---------------------------------------------------------------------------------------------- weighted loss


@torch.library.custom_op(
    "dmpo::linear_weighted_ce",
    mutates_args=(),
    schema="(Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, Tensor mask, Tensor weights, "
    "Tensor? baseline, float strength, int? max_logits_bytes, float skip_below, bool[] needs) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _weighted_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    mask: Tensor,
    weights: Tensor,
    baseline: Tensor | None,
    strength: float,
    max_logits_bytes: int | None,
    skip_below: float,
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
    with _settings(hidden):
        if needs[1] or needs[2]:
            log_probs, found = tiles.row_chunks(rows, weight, bias, wanted, -c, needs, max_logits_bytes)
        else:
            swept = tiles.sweep(
                rows, weight, bias, wanted, gradient=needs[0], limit=max_logits_bytes, skip_below=skip_below, factor=c
            )
            log_probs, slope = swept.log_probs, swept.gradient
            found = tiles.Gradients(None if slope is None else slope.mul_(-c.unsqueeze(1)), None, None)
    nll = mean_nll(hidden.new_zeros(mask.shape, dtype=dtype).index_put_(at, log_probs), mask)
    flat = at[0] * mask.shape[1] + at[1]
    slopes = (hidden.new_empty(0, dtype=dtype) if g is None else g for g in (found.hidden, found.weight, found.bias))
    return ((a.to(dtype) * nll).sum(), nll, flat, *slopes)  # type: ignore[return-value]


@_weighted_op.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    mask: Tensor,
    weights: Tensor,
    baseline: Tensor | None,
    strength: float,
    max_logits_bytes: int | None,
    skip_below: float,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dtype = wide(hidden.dtype)
    loss, nll = (hidden.new_empty(shape, dtype=dtype) for shape in ((), weights.shape))
    live = torch.library.get_ctx().new_dynamic_size()
    shapes = ((live, hidden.shape[2]), weight.shape, None if bias is None else bias.shape)
    parts = zip(shapes, needs, strict=True)
    slopes = [hidden.new_empty(x if need and x is not None else (0,), dtype=dtype) for x, need in parts]
    return loss, nll, targets.new_empty(live), slopes[0], slopes[1], slopes[2]


def _setup_weighted(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[2:])
    ctx.shape, ctx.dtypes = inputs[0].shape, [None if x is None else x.dtype for x in inputs[:3]]


def _backward_weighted(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    _refuse_double_backward()
    flat, *slopes = ctx.saved_tensors
    factor = grad.reshape(1)  # a dimension, so that it takes part in the type of the product; `out` rounds that once
    parts = zip(slopes, ctx.dtypes, ctx.needs_input_grad[:3], strict=True)
    found = [torch.mul(g, factor, out=g.new_empty(g.shape, dtype=to)) if need else None for g, to, need in parts]
    if found[0] is not None:
        count, length, size = ctx.shape
        rows = found[0].new_zeros((count * length, size)).index_copy(0, flat, found[0])
        found[0] = rows.view(count, length, size)
    return (*found, *(None,) * 8)


torch.library.register_autograd(_weighted_op, _backward_weighted, setup_context=_setup_weighted)


# ---------------------------------------------------------------------------------------------- public functions


def linear_token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    max_logits_bytes: int | None = None,
    skip_below: float = 0.0,
) -> Tensor:
    """log softmax(hidden @ weight.T + bias)[target] of every row; differentiable for any upstream gradient, once.

    hidden [M, H] and weight [V, H] of one dtype (float32, bfloat16, float16, float64), targets int64 [M], bias [V]
    floating -> float32 [M] in nats (float64 for float64 inputs, which take the plain PyTorch path everywhere).

    A head that needs no gradient (the LoRA case) costs 4·H·V FLOPs a row, forward and backward together: the forward
    walks tiles of the vocabulary with an online softmax and keeps Σ p·weight, float32 [M, H]; the backward scales its
    rows. A trainable head is recomputed in the backward, 8·H·V; its gradient goes to `weight` as autograd has it, so
    tied heads add up. Without gradients: 2·H·V. Logits exist only in a piece of at most `max_logits_bytes` (default:
    16 MiB on a CPU, 256 MiB on a GPU).

    `skip_below` > 0 leaves out of Σ p·weight the tiles whose every p is below it, in every row of the piece; a row of
    the gradient is then off by at most skip_below · Σ|w| over the tiles left out. Off by default, for it buys little:
    at V = 126464, H = 128, 64 rows of p(target) about 0.5, 1e-3 leaves out 104 of 124 tiles and errs by up to 9 % of
    a row's gradient, and 1e-5 leaves out none. It costs one synchronisation a tile on a GPU.

    On a GPU with half-precision inputs p (with a trainable head, upstream · (onehot - p)) is rounded to their dtype
    before the second product.

    Under autocast hidden, weight and bias are cast to its dtype, as for a linear layer. Raises TypeError for
    arguments that are not tensors (an lm_head module, or one wrapped by LoRA: merge it first and pass the plain
    weight), ValueError for wrong shapes, dtypes, devices and (on CPU tensors; on a GPU the row becomes NaN) targets
    outside [0, V), RuntimeError from create_graph=True.
    """
    hidden, weight, bias = _check_linear(hidden, weight, bias, max_logits_bytes, skip_below, dims="MH")
    checks.check_like("targets", targets, hidden, hidden.shape[:1], torch.int64)
    head_trains = weight.requires_grad or (bias is not None and bias.requires_grad)
    keep_gradient = torch.is_grad_enabled() and hidden.requires_grad and not head_trains
    targets = targets.contiguous()  # the kernels read one after the other
    return _logprobs_op(hidden, weight, bias, targets, max_logits_bytes, float(skip_below), keep_gradient)[0]


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
    skip_below: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Σ_n (w_n - strength · b_n) · mean NLL_n over masked tokens, from hidden states, and the mean NLLs.

    The loss of DMPO (WDCE, arXiv 2510.08233). hidden [N, L, H] and weight [V, H] of one dtype, targets int64 [N, L],
    mask bool [N, L], weights and baseline [N] floating constants, bias [V] -> scalar and [N], float32 (float64 for
    float64 inputs). The loss is differentiable in hidden, weight and bias; the mean NLLs are a detached report.

    Masked rows are gathered first: no logit of any other row is computed. Rows whose coefficient w - strength · b is
    exactly 0 are left out too and report a mean NLL of 0, as does a row without masks. The coefficients are known
    before the forward, so the gradient is made in it: 4·H·V FLOPs a row with a frozen head, 6·H·V with a trainable
    one (8·H·V if fewer than 32 rows of logits fit in `max_logits_bytes`; its default is then 64 MiB on a CPU, 1 GiB
    on a GPU). The backward multiplies by the upstream scalar.

    On a GPU with half-precision inputs p (with a trainable head, coefficient / m · (onehot - p)) is rounded to their
    dtype before the second product.

    `max_logits_bytes`, `skip_below` (here p times |coefficient| / m; frozen heads), autocast and errors: see
    `linear_token_logprobs`.
    """
    checks.check_tensor("mask", mask)
    hidden, weight, bias = _check_linear(hidden, weight, bias, max_logits_bytes, skip_below, dims="NLH")
    checks.check_like("targets", targets, hidden, hidden.shape[:2], torch.int64)
    checks.check_like("mask", mask, hidden, hidden.shape[:2], torch.bool)
    checks.check_row_weights("weights", weights, hidden, hidden.shape[0])
    if baseline is not None:
        checks.check_row_weights("baseline", baseline, hidden, hidden.shape[0])
    checks.check_number("strength", strength)
    needs = [torch.is_grad_enabled() and x is not None and x.requires_grad for x in (hidden, weight, bias)]
    loss, nll, *_ = _weighted_op(
        hidden,
        weight,
        bias,
        targets,
        mask,
        weights,
        baseline,
        float(strength),
        max_logits_bytes,
        float(skip_below),
        needs,
    )
    return loss, nll


def _check_linear(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, max_logits_bytes: int | None, skip_below: float, dims: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Validate; returns the three tensors in the dtype autocast asks for, if it is on."""
    checks.check_floating("hidden", hidden, dims)
    if not isinstance(weight, Tensor):
        raise TypeError(
            f"weight: got {type(weight).__name__}, want the tensor lm_head.weight [V, H]; an adapter on lm_head (LoRA) "
            "must be merged into it first"
        )
    checks.check_floating("weight", weight, "VH")
    if bias is not None:
        checks.check_floating("bias", bias, "V")
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    checks.check_like("weight", weight, hidden, (weight.shape[0], hidden.shape[-1]), hidden.dtype)
    if weight.shape[0] == 0:
        raise ValueError(f"weight: got shape {list(weight.shape)}, want V >= 1")
    if bias is not None:
        checks.check_like("bias", bias, hidden, (weight.shape[0],), bias.dtype)
    if max_logits_bytes is not None:
        if isinstance(max_logits_bytes, bool) or not isinstance(max_logits_bytes, int):
            kind = type(max_logits_bytes).__name__
            raise TypeError(f"max_logits_bytes: got {max_logits_bytes!r} ({kind}), want an int, bytes")
        if max_logits_bytes < 1:
            raise ValueError(f"max_logits_bytes: got {max_logits_bytes}, want a whole number of bytes >= 1")
    checks.check_number("skip_below", skip_below)
    if skip_below < 0:
        raise ValueError(f"skip_below: got {skip_below}, want >= 0")
    return hidden, weight, bias
