"""Masked-token cross-entropy from logits: log-probabilities and the weighted loss of masked rows only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from . import checks, launch
from . import masked_ce_triton as kernels
from .reference import coefficients, mean_nll, wide

PLAIN_CHUNK_BYTES = 16 << 20  # wide copy of the rows the plain path holds at a time


# ---------------------------------------------------------------------------------------------- plain PyTorch


def _plain_chunks(logits: Tensor, live: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices (n, l) of live rows, a bounded number at a time."""
    rows, columns = live.nonzero(as_tuple=True)
    step = max(1, PLAIN_CHUNK_BYTES // (logits.shape[-1] * wide(logits.dtype).itemsize))
    yield from zip(rows.split(step), columns.split(step), strict=True)


def _plain_forward(logits: Tensor, targets: Tensor, live: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dtype, vocab = wide(logits.dtype), logits.shape[-1]
    log_probs, row_max, log_sum = (logits.new_zeros(logits.shape[:2], dtype=dtype) for _ in range(3))
    for at in _plain_chunks(logits, live):
        x = logits[at].to(dtype)  # [rows, V]
        chosen = x.gather(1, targets[at].clamp(0, vocab - 1).unsqueeze(1)).squeeze(1)
        chosen = chosen.masked_fill((targets[at] < 0) | (targets[at] >= vocab), float("nan"))
        top = x.amax(1)
        top = top.masked_fill(top == float("-inf"), 0.0)
        log_total = x.sub_(top.unsqueeze(1)).exp_().sum(1).log()
        log_probs[at], row_max[at], log_sum[at] = (chosen - top) - log_total, top, log_total
    return log_probs, row_max, log_sum


def _plain_backward(
    logits: Tensor, targets: Tensor, live: Tensor, row_max: Tensor, log_sum: Tensor, c: Tensor, out: Tensor
) -> None:
    vocab = logits.shape[-1]
    for at in _plain_chunks(logits, live):
        target = targets[at].clamp(0, vocab - 1).unsqueeze(1)
        factor = c[at].masked_fill((targets[at] < 0) | (targets[at] >= vocab), float("nan")).unsqueeze(1)
        p = logits[at].to(row_max.dtype).sub_(row_max[at].unsqueeze(1)).sub_(log_sum[at].unsqueeze(1)).exp_()
        chosen = factor * (1.0 - p.gather(1, target))
        out[at] = p.mul_(-factor).scatter_(1, target, chosen).to(out.dtype)


# ---------------------------------------------------------------------------------------------- ops


def _live(
    mask: Tensor | None, weights: Tensor | None, baseline: Tensor | None, strength: float, like: Tensor
) -> Tensor:
    """bool [N, L]: masked, in a row whose coefficient is not 0."""
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
        return _plain_forward(logits, targets, _live(mask, weights, baseline, strength, logits))
    if logits.stride(-1) == 1:
        return kernels.forward(logits, targets, mask, weights, baseline, strength)
    live = _live(mask, weights, baseline, strength, logits)  # no 16-byte loads along the rows: copy the live ones
    rows = kernels.forward(logits[live].unsqueeze(1), targets[live].unsqueeze(1), None, None, None, 0.0)
    zeros = [x.new_zeros(live.shape) for x in rows]
    for x, row in zip(zeros, rows, strict=True):
        x[live] = row.squeeze(1)
    return zeros[0], zeros[1], zeros[2]


def _fills_dead_rows(logits: Tensor) -> bool:
    """True if the backward is one kernel over every row; elsewhere only live rows are written."""
    return launch.uses_triton(logits) and logits.stride(-1) == 1


def _backward(
    logits: Tensor,
    targets: Tensor,
    mask: Tensor | None,
    row_max: Tensor,
    log_sum: Tensor,
    grad: Tensor,
    scale: Tensor | None,
    out: Tensor,
) -> None:
    """Write the gradient of every row into `out`: what `_backward_op` allocated, or `logits`; zeros in dead rows."""
    if _fills_dead_rows(logits):
        kernels.backward(logits, targets, mask, row_max, log_sum, grad.contiguous(), scale, out)
        return
    c = grad if scale is None else (-grad * scale).unsqueeze(1).expand(targets.shape)
    live = c != 0 if mask is None else (c != 0) & mask
    if out is logits:
        out[~live] = 0
    if not launch.uses_triton(logits):
        _plain_backward(logits, targets, live, row_max, log_sum, c, out)
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
def _logprobs_op(
    logits: Tensor, targets: Tensor, mask: Tensor | None, inplace_backward: bool
) -> tuple[Tensor, Tensor, Tensor]:
    checks.check_target_values(targets, mask, logits.shape[-1])
    with launch.on_device(logits):
        return _forward(logits, targets, mask, None, None, 0.0)


@_logprobs_op.register_fake
def _(logits: Tensor, targets: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    log_probs, row_max, log_sum = (logits.new_empty(targets.shape, dtype=wide(logits.dtype)) for _ in range(3))
    return log_probs, row_max, log_sum


@torch.library.custom_op(
    "dmpo::weighted_masked_ce",
    mutates_args=(),
    schema="(Tensor logits, Tensor targets, Tensor mask, Tensor weights, Tensor? baseline, float strength, "
    "bool inplace_backward) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _weighted_op(
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


@_weighted_op.register_fake
def _(
    logits: Tensor, targets: Tensor, mask: Tensor, weights: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    shapes = ((), weights.shape, weights.shape, targets.shape, targets.shape)
    loss, nll, scale, row_max, log_sum = (logits.new_empty(shape, dtype=wide(logits.dtype)) for shape in shapes)
    return loss, nll, scale, row_max, log_sum


@torch.library.custom_op(
    "dmpo::masked_ce_backward",
    mutates_args=(),
    schema="(Tensor logits, Tensor targets, Tensor? mask, Tensor row_max, Tensor log_sum, Tensor grad, "
    "Tensor? scale) -> Tensor",
)
def _backward_op(
    logits: Tensor,
    targets: Tensor,
    mask: Tensor | None,
    row_max: Tensor,
    log_sum: Tensor,
    grad: Tensor,
    scale: Tensor | None,
) -> Tensor:
    out = logits.new_empty(logits.shape) if _fills_dead_rows(logits) else logits.new_zeros(logits.shape)
    with launch.on_device(logits):
        _backward(logits, targets, mask, row_max, log_sum, grad, scale, out)
    return out


@_backward_op.register_fake
def _(logits: Tensor, *_: Any) -> Tensor:
    return logits.new_empty(logits.shape)


@torch.library.custom_op(
    "dmpo::masked_ce_backward_",
    mutates_args=("logits",),
    schema="(Tensor(a!) logits, Tensor targets, Tensor? mask, Tensor row_max, Tensor log_sum, Tensor grad, "
    "Tensor? scale) -> ()",
)
def _inplace_backward_op(
    logits: Tensor,
    targets: Tensor,
    mask: Tensor | None,
    row_max: Tensor,
    log_sum: Tensor,
    grad: Tensor,
    scale: Tensor | None,
) -> None:
    with launch.on_device(logits):
        _backward(logits, targets, mask, row_max, log_sum, grad, scale, logits)


def _setup(
    ctx: Any, logits: Tensor, targets: Tensor, mask: Tensor | None, stats: Sequence[Tensor], inplace: bool
) -> None:
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


def _autograd_backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    unused = (None,) * (len(ctx.needs_input_grad) - 1)
    if not ctx.inplace:
        logits, targets, mask, row_max, log_sum, *scale = ctx.saved_tensors
        return (_backward_op(logits, targets, mask, row_max, log_sum, grad, *(scale or [None])), *unused)
    if ctx.overwritten:
        raise RuntimeError(
            "inplace_backward=True: a first backward overwrote the logits with their gradient, so there is no "
            "second one; use inplace_backward=False to go backward twice through one graph"
        )
    if torch.is_grad_enabled():
        raise RuntimeError("inplace_backward=True does not go with create_graph=True: the logits would be overwritten")
    logits, targets, mask, row_max, log_sum, *scale = ctx.saved_tensors
    ctx.overwritten = True
    gradient = logits.detach()
    _inplace_backward_op(gradient, targets, mask, row_max, log_sum, grad, *(scale or [None]))
    return (gradient, *unused)


def _no_double_backward(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError("masked cross-entropy has no second derivative: its backward cannot be differentiated again")


torch.library.register_autograd(_logprobs_op, _autograd_backward, setup_context=_setup_logprobs)
torch.library.register_autograd(_weighted_op, _autograd_backward, setup_context=_setup_weighted)
torch.library.register_autograd(_backward_op, _no_double_backward)


# ---------------------------------------------------------------------------------------------- public functions


def masked_token_logprobs(
    logits: Tensor, targets: Tensor, mask: Tensor | None = None, *, inplace_backward: bool = False
) -> Tensor:
    """log softmax(logits)[target] at masked positions and 0 elsewhere; differentiable for any upstream gradient, once.

    logits [N, L, V] float32, bfloat16, float16 or float64, any strides (a last dimension that is not contiguous costs
    a copy of the masked rows); targets int64 [N, L]; mask bool [N, L] (None: every position) -> float32 [N, L] in
    nats (float64 for float64 logits, which take the plain PyTorch path everywhere).

    Rows that are not masked are never read: their targets may hold anything, and NaN in one row stays in that row.
    Arithmetic is float32 whatever the input, under autocast too. `inplace_backward=True` writes the gradient over the
    logits: half the memory, but the logits are gone and a second backward raises RuntimeError. (While torch.compile
    traces, the flag is ignored: the compiler plans that memory.)

    Raises TypeError for arguments that are not tensors and ValueError for wrong shapes, dtypes, devices and (on CPU
    tensors; on a GPU the row becomes NaN, as a check would stall the stream) targets outside [0, V) at masked
    positions.
    """
    _check_logits(logits, targets, mask)
    if mask is not None:
        mask = mask.contiguous()
    inplace_backward = _inplace(logits, inplace_backward)
    return _logprobs_op(logits, targets.contiguous(), mask, inplace_backward)[0]


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
    in the logits; the mean NLLs are a detached report.

    Rows whose coefficient w - strength · b is exactly 0 are never read and report a mean NLL of 0, as does a row
    without masks. Weights, baseline, strength and 1/m are applied inside the kernels. Raises as
    `masked_token_logprobs`, and ValueError for weights that require grad or (on CPU tensors) are not finite.
    """
    checks.check_tensor("mask", mask)
    _check_logits(logits, targets, mask)
    checks.check_row_weights("weights", weights, logits, logits.shape[0])
    if baseline is not None:
        checks.check_row_weights("baseline", baseline, logits, logits.shape[0])
        baseline = baseline.contiguous()
    checks.check_number("strength", strength)
    inplace_backward = _inplace(logits, inplace_backward)
    out = _weighted_op(
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


def _inplace(logits: Tensor, wanted: bool) -> bool:
    if not wanted or torch.compiler.is_compiling():
        return False
    if any(size > 1 and stride == 0 for size, stride in zip(logits.shape, logits.stride(), strict=True)):
        raise ValueError("inplace_backward: got expanded logits (a stride of 0), want logits that own every row")
    return True


production = kernels.production
