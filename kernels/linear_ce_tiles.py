"""How linear cross-entropy walks its logits: bounded pieces of `hidden @ weight.T + bias`, never the whole.

Three walks, by what the gradient needs (H hidden size, V vocabulary, FLOPs of one row):

- `sweep`, frozen head: attention with keys = values = weight. Tiles of columns, a running maximum and sum, Σ p·weight
  in float32: log-probs and d log p / d hidden in one pass of 4·H·V (2·H·V without the gradient).
- `row_chunks`, trainable head and row factors known beforehand: whole rows, a few at a time, gradient made on the
  spot: 6·H·V.
- `recompute`, trainable head and any upstream gradient: tiles again in the backward, each tile of the head's gradient
  written once: 2·H·V forward and 6·H·V backward.

Which walk is kept was measured on one CPU thread at V = 126464, H = 128, 1024 rows (CPU seconds): frozen head, tiles
0.70, row chunks 1.33 (16 MiB) to 0.97 (64 MiB); trainable head, row chunks 1.45, tiles with recomputation 0.41 +
1.18. Tiles of 512 to 4096 columns differ by 10 %. On a GPU the same choice rests on FLOPs and traffic alone: not
measured.

Products of half-precision inputs accumulate and are kept in float32. The target's entry of a gradient is formed as
1 - p in float32. On a GPU the steps between products are Triton kernels in place on the piece; the products are
torch's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import launch, masked_ce_triton
from . import linear_ce_triton as kernels
from .reference import wide

SWEEP_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}  # default bounds of a piece, by device
ROW_CHUNK_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}
PLAIN_COLUMNS, TRITON_COLUMNS = 1024, 8192  # of a tile; one Triton program holds a row of it in registers
MIN_CHUNK_ROWS = 32  # below this a product of row chunks reads the head too often


@dataclass(frozen=True)
class Head:
    """The head and its targets' rows; pieces come in the dtype products run in."""

    weight: Tensor  # [V, H]
    bias: Tensor | None  # [V]
    compute: torch.dtype  # of the operands of products: the inputs' own on a GPU, wide on a CPU

    def tile(self, first: int, columns: int) -> Tensor:
        return self.weight[first : first + columns].to(self.compute)

    def logits(self, hidden: Tensor, first: int, out: Tensor) -> Tensor:
        """hidden @ weight[first:].T + bias into `out` [R, columns], wide; returns the tile of the weight."""
        tile = self.tile(first, out.shape[1])
        _product(hidden, tile.t(), out)
        if self.bias is not None:
            out.add_(self.bias[first : first + out.shape[1]].to(out.dtype))
        return tile


def _head(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Head:
    on_gpu = hidden.device.type == "cuda"
    return Head(weight, bias, hidden.dtype if on_gpu and launch.uses_triton(hidden) else wide(hidden.dtype))


def _bound(limit: int | None, defaults: dict[str, int], device: torch.device) -> int:
    return defaults.get(device.type, defaults["cpu"]) if limit is None else limit


def _piece_bytes(head: Head) -> int:
    """Per logit: the wide one, and a half-precision copy for the next product where the inputs are half precision."""
    wide_bytes = wide(head.compute).itemsize
    return wide_bytes if head.compute == wide(head.compute) else wide_bytes + head.compute.itemsize


def _pieces(head: Head, rows: int, limit: int) -> tuple[int, int]:
    """(rows, columns) of a piece of at most `limit` bytes (one logit at least)."""
    elements = max(1, limit // _piece_bytes(head))
    widest = TRITON_COLUMNS if launch.uses_triton(head.weight) else PLAIN_COLUMNS
    columns = min(len(head.weight), widest, elements)
    return min(rows, max(1, elements // columns)), columns


class _Buffers:
    """The piece: `logits` float32 or float64, and `operand`, what the next product reads; one memory where dtypes
    agree."""

    def __init__(self, head: Head, rows: int, columns: int) -> None:
        pitch = -(-columns // kernels.PITCH) * kernels.PITCH
        self.logits = head.weight.new_empty(rows, pitch, dtype=wide(head.compute))
        same = head.compute == self.logits.dtype
        self.operand = self.logits if same else head.weight.new_empty(rows, pitch, dtype=head.compute)


def _product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """out = a @ b, accumulated and kept in the dtype of `out`; half-precision operands on a GPU only."""
    return torch.mm(a, b, out=out) if a.dtype == out.dtype else torch.mm(a, b, out_dtype=out.dtype, out=out)


def _accumulate(into: Tensor, a: Tensor, b: Tensor, unit: Tensor | None = None) -> None:
    """into += a @ b (times `unit`, half-precision operands only), in the dtype of `into`. Half precision holds the
    product beside `into` meanwhile: a head of [V, H] once more in float32."""
    if a.dtype == into.dtype:
        torch.addmm(into, a, b, out=into)  # addmm_ is unknown to PyTorch's FLOP counters
    elif unit is None:
        into.add_(_product(a, b, torch.empty_like(into)))
    else:
        into.addcmul_(_product(a, b, torch.empty_like(into)), unit)


# ---------------------------------------------------------------------------------------------- one pass, frozen head


@dataclass(frozen=True)
class Sweep:
    """[R] log-probs, maxima and logarithms of Σ exp(x - max); [R, H] d log p / d hidden, wide, or None."""

    log_probs: Tensor
    row_max: Tensor
    log_sum: Tensor
    gradient: Tensor | None


def sweep(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    gradient: bool,
    limit: int | None,
    skip_below: float = 0.0,
    factor: Tensor | None = None,
) -> Sweep:
    """Walk the vocabulary once. hidden [R, H], targets [R]; factor [R] scales `skip_below`'s test."""
    head = _head(hidden, weight, bias)
    dtype, size = wide(hidden.dtype), len(hidden)
    stats = [hidden.new_empty(size, dtype=dtype) for _ in range(3)]
    slope = hidden.new_empty(hidden.shape, dtype=dtype) if gradient else None
    if size:
        rows, columns = _pieces(head, size, _bound(limit, SWEEP_BYTES, hidden.device))
        buffers = _Buffers(head, rows, columns)
        walk = _triton_walk if launch.uses_triton(hidden) else _plain_walk
        for start in range(0, size, rows):
            part = slice(start, start + rows)
            h, scale = hidden[part].to(head.compute), None if factor is None else factor[part].abs()
            out = None if slope is None else slope[part].zero_()
            found = walk(head, h, targets[part], columns, buffers, out, skip_below, scale)
            for whole, x in zip(stats, found, strict=True):
                whole[part] = x
    return Sweep(stats[0], stats[1], stats[2], slope)


def _negligible(peak: Tensor, total: Tensor, scale: Tensor | None, skip_below: float) -> bool:
    """Every p of the tile, times its row's factor, is below `skip_below`; the running total bounds the final one from
    below."""
    if skip_below <= 0:
        return False
    bound = peak / total if scale is None else peak / total * scale
    return bool((bound < skip_below).all())


def _finish(head: Head, targets: Tensor, log_probs: Tensor, total: Tensor, slope: Tensor | None) -> None:
    """slope = Σ_{v ≠ y} p̃·w_v becomes d log p / d hidden = (1 - p_y)·w_y - Σ_{v ≠ y} p_v·w_v."""
    if slope is not None:
        rows = head.weight[targets.clamp(0, len(head.weight) - 1)].to(slope.dtype)
        slope.div_(-total.unsqueeze(1)).addcmul_(rows, -torch.expm1(log_probs).unsqueeze(1))


def _plain_walk(
    head: Head,
    hidden: Tensor,
    targets: Tensor,
    columns: int,
    buffers: _Buffers,
    slope: Tensor | None,
    skip_below: float,
    scale: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of one piece. (Leaving the maximum of the first tile in place saves 10 % of the time and costs digits
    where p is near 1.)"""
    size, vocab = len(hidden), len(head.weight)
    row_max = hidden.new_full((size,), float("-inf"))
    total = hidden.new_zeros(size)
    chosen = hidden.new_full((size,), float("nan"))  # stays so for a target outside [0, V)
    for first in range(0, vocab, columns):
        width = min(columns, vocab - first)
        x = buffers.logits.view(-1)[: size * width].view(size, width)
        tile = head.logits(hidden, first, x)
        here = ((targets >= first) & (targets < first + width)).nonzero().squeeze(1)
        at = targets[here] - first
        chosen[here] = x[here, at]
        top = torch.maximum(row_max, x.amax(1))
        shift = top.masked_fill(top.isneginf(), 0.0)
        alpha = torch.exp(row_max - shift)
        row_max = top
        x.sub_(shift.unsqueeze(1)).exp_()
        total.mul_(alpha).add_(x.sum(1))
        if slope is None:
            continue
        if first and bool((alpha != 1).any()):
            slope.mul_(alpha.unsqueeze(1))
        if not (skip_below > 0 and _negligible(x.amax(1), total, scale, skip_below)):
            x[here, at] = 0.0
            _accumulate(slope, x, tile)
    log_sum = total.log()
    log_probs = (chosen - row_max) - log_sum
    _finish(head, targets, log_probs, total, slope)
    return log_probs, row_max, log_sum


def _triton_walk(
    head: Head,
    hidden: Tensor,
    targets: Tensor,
    columns: int,
    buffers: _Buffers,
    slope: Tensor | None,
    skip_below: float,
    scale: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of one piece, the step between products in Triton; no host synchronisation unless `skip_below` is set."""
    size, vocab = len(hidden), len(head.weight)
    full = [hidden.new_full((size,), x, dtype=torch.float32) for x in (float("-inf"), 0.0, float("nan"), 0.0, 0.0)]
    row_max, total, chosen, alpha, peak = full
    product = None if slope is None or head.compute == slope.dtype else torch.empty_like(slope)
    for first in range(0, vocab, columns):
        width = min(columns, vocab - first)
        x, probs = buffers.logits[:size, :width], buffers.operand[:size, :width]
        tile = head.logits(hidden, first, x)
        kernels.tile_softmax(x, probs, targets, chosen, row_max, total, alpha, peak, first)
        if slope is None:
            continue
        if skip_below > 0 and _negligible(peak, total, scale, skip_below):
            slope.mul_(alpha.unsqueeze(1))
        elif product is None:
            _accumulate(slope.mul_(alpha.unsqueeze(1)), probs, tile)
        else:
            _product(probs, tile, product)
            torch.addcmul(product, slope, alpha.unsqueeze(1), out=slope)
    log_sum = total.log() - kernels.boost(head.compute)
    log_probs = (chosen - row_max) - log_sum
    _finish(head, targets, log_probs, total, slope)
    return log_probs, row_max, log_sum


# ---------------------------------------------------------------------------------------------- trainable head


@dataclass
class Gradients:
    """Of hidden [R, H], weight [V, H] and bias [V], wide while they accumulate; None where not wanted."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def zeros(cls, hidden: Tensor, weight: Tensor, bias: Tensor | None, needs: Sequence[bool]) -> Gradients:
        dtype = wide(hidden.dtype)
        parts = zip((hidden, weight, bias), needs, strict=True)
        return cls(*(x.new_zeros(x.shape, dtype=dtype) if need and x is not None else None for x, need in parts))


def _gradient_step(
    x: Tensor, operand: Tensor, targets: Tensor, stats: tuple[Tensor, Tensor], c: Tensor, first: int
) -> None:
    """c · (onehot - softmax) of the logits `x` into `operand`; a target outside [0, V) must have made `c` NaN
    before."""
    if launch.uses_triton(operand):
        kernels.tile_gradient(x, operand, targets, *stats, c, first)
        return
    row_max, log_sum = (s.unsqueeze(1) for s in stats)
    here = ((targets >= first) & (targets < first + x.shape[1])).nonzero().squeeze(1)
    at = targets[here] - first
    x.sub_(row_max).sub_(log_sum).exp_()
    chosen = c[here] * (1.0 - x[here, at])
    x.mul_(-c.unsqueeze(1))
    x[here, at] = chosen


def _in_range(head: Head, c: Tensor) -> tuple[Tensor, Tensor | None]:
    """Factors [R] that keep c · (onehot - softmax) in the range of float16 operands, whatever the size of `c`, and the
    unit that the products are then in; `c` itself and None for other dtypes. One unit serves a whole piece, for the
    head's gradient adds up its rows: a row far below the largest has fewer digits."""
    boost = kernels.boost(head.compute)
    if not boost:
        return c, None
    largest = c.abs().nan_to_num(0.0, 0.0, 0.0).amax()  # a poisoned row stays alone; no synchronisation
    unit = largest.clamp(min=1e-30) * math.exp(-boost)
    return c / unit, unit


def _add_products(
    into: Gradients, operand: Tensor, hidden: Tensor, tile: Tensor, rows: slice, unit: Tensor | None
) -> None:
    if into.hidden is not None:
        _accumulate(into.hidden[rows], operand, tile, unit)
    if into.weight is not None:
        _accumulate(into.weight, operand.t(), hidden, unit)
    if into.bias is not None:
        total = operand.sum(0, dtype=into.bias.dtype)
        into.bias += total if unit is None else total * unit


def _poison(c: Tensor, targets: Tensor, vocab: int) -> Tensor:
    return c.masked_fill((targets < 0) | (targets >= vocab), float("nan"))


def recompute(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    stats: tuple[Tensor, Tensor],
    c: Tensor,
    needs: Sequence[bool],
    limit: int | None,
    *,
    rounded: bool = True,
) -> Gradients:
    """Gradients of Σ_i c_i · log p_i from the row maxima and log-sums of a forward sweep; 2·H·V for each product.

    Those of weight and bias come in their own dtypes, or wide if not `rounded`."""
    head, size, vocab = _head(hidden, weight, bias), len(hidden), len(weight)
    whole = Gradients.zeros(hidden, weight[:0], None, needs)
    dtype = None if rounded else wide(hidden.dtype)
    if needs[1]:
        whole.weight = (weight.new_empty if size else weight.new_zeros)(weight.shape, dtype=dtype)
    if needs[2] and bias is not None:
        whole.bias = bias.new_zeros(bias.shape, dtype=dtype)
    if size == 0:
        return whole
    rows, columns = _pieces(head, size, _bound(limit, SWEEP_BYTES, hidden.device))
    buffers = _Buffers(head, rows, columns)
    factors = [_in_range(head, part) for part in _poison(c, targets, vocab).split(rows)]
    for first in range(0, vocab, columns):
        tile_of = slice(first, min(first + columns, vocab))
        width = tile_of.stop - first
        part_bias = None if bias is None else bias[tile_of]
        into = Gradients.zeros(hidden[:0], weight[tile_of], part_bias, needs)  # the tile's own, so each is rounded once
        into.hidden = whole.hidden
        for start, (factor, unit) in zip(range(0, size, rows), factors, strict=True):
            part = slice(start, min(start + rows, size))
            h = hidden[part].to(head.compute)
            x, operand = buffers.logits[: len(h), :width], buffers.operand[: len(h), :width]
            tile = head.logits(h, first, x)
            _gradient_step(x, operand, targets[part], (stats[0][part], stats[1][part]), factor, first)
            _add_products(into, operand, h, tile, part, unit)
        if whole.weight is not None and into.weight is not None:
            whole.weight[tile_of] = into.weight
        if whole.bias is not None and into.bias is not None:
            whole.bias[tile_of] = into.bias
    return whole


def row_chunks(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    c: Tensor,
    needs: Sequence[bool],
    limit: int | None,
) -> tuple[Tensor, Gradients]:
    """log p [R] and the gradients of Σ_i c_i · log p_i, each logit computed once; `recompute` where few rows fit in
    `limit`."""
    head, size, vocab = _head(hidden, weight, bias), len(hidden), len(weight)
    rows = _bound(limit, ROW_CHUNK_BYTES, hidden.device) // (vocab * _piece_bytes(head))
    if rows < min(size, MIN_CHUNK_ROWS):
        found = sweep(hidden, weight, bias, targets, gradient=False, limit=limit)
        stats = (found.row_max, found.log_sum)
        return found.log_probs, recompute(hidden, weight, bias, targets, stats, c, needs, limit, rounded=False)
    into = Gradients.zeros(hidden, weight, bias, needs)
    log_probs, c = hidden.new_empty(size, dtype=wide(hidden.dtype)), _poison(c, targets, vocab)
    if size:
        rows = min(rows, size)
        buffers = _Buffers(head, rows, vocab)
        for start in range(0, size, rows):
            part = slice(start, min(start + rows, size))
            h, target = hidden[part].to(head.compute), targets[part]
            x, operand = buffers.logits[: len(h), :vocab], buffers.operand[: len(h), :vocab]
            tile = head.logits(h, 0, x)
            factor, unit = _in_range(head, c[part])
            if launch.uses_triton(operand):
                found3 = masked_ce_triton.forward(x.unsqueeze(1), target.unsqueeze(1), None, None, None, 0.0)
                log_probs[part], row_max, log_sum = (s.squeeze(1) for s in found3)
                kernels.tile_gradient(x, operand, target, row_max, log_sum, factor, 0)
            else:
                log_probs[part] = _plain_chunk_step(x, target, factor)
            _add_products(into, operand, h, tile, part, unit)
    return log_probs, into


def _plain_chunk_step(x: Tensor, targets: Tensor, c: Tensor) -> Tensor:
    """Turn whole rows of logits into c · (onehot - softmax) in place; returns log p(target)."""
    known = targets.clamp(0, x.shape[1] - 1).unsqueeze(1)
    chosen = _poison(x.gather(1, known).squeeze(1), targets, x.shape[1])
    top = x.amax(1)
    top = top.masked_fill(top.isneginf(), 0.0)
    total = x.sub_(top.unsqueeze(1)).exp_().sum(1)
    log_probs = (chosen - top) - total.log()
    x.mul_((-c / total).unsqueeze(1)).scatter_(1, known, (c * -torch.expm1(log_probs)).unsqueeze(1))
    return log_probs
