"""Linear cross-entropy with a trainable head: gradients from chunks of whole rows, or from tiles computed again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import head as lm_head
from .. import launch
from ..arithmetic import accumulation_dtype
from ..masked_ce import triton_kernels as whole_rows
from . import tiles
from . import triton_kernels as kernels
from .frozen_head import vocabulary_pass


@dataclass
class Gradients:
    """Gradients of hidden [R, H], weight [V, H] and bias [V], in the accumulation dtype; None for those not needed."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def empty(cls, hidden: Tensor, weight: Tensor, bias: Tensor | None, needs: Sequence[bool]) -> Gradients:
        """Zeros for the bias. For hidden and weight memory that their first product writes, or zeros if R = 0."""
        dtype, new = accumulation_dtype(hidden.dtype), hidden.new_empty if len(hidden) else hidden.new_zeros
        return cls(
            new(hidden.shape, dtype=dtype) if needs[0] else None,
            new(weight.shape, dtype=dtype) if needs[1] else None,
            bias.new_zeros(bias.shape, dtype=dtype) if needs[2] and bias is not None else None,
        )

    def multiply_(self, unit: Tensor | None) -> None:
        """Multiply every gradient by `unit`, a number on the device."""
        for gradient in (self.hidden, self.weight, self.bias):
            if unit is not None and gradient is not None:
                gradient.mul_(unit)

    def add_products(self, operand: Tensor, hidden: Tensor, tile: Tensor, chunk: slice, *, first_tile: bool) -> None:
        """Add the products of one row chunk and one tile of the head; operand = row_scale · (onehot - softmax)."""
        if self.hidden is not None:
            lm_head.accumulate(self.hidden[chunk], operand, tile, fresh=first_tile)
        if self.weight is not None:
            lm_head.accumulate(self.weight, operand.t(), hidden, fresh=chunk.start == 0)
        if self.bias is not None:
            self.bias += operand.sum(0, dtype=self.bias.dtype)


def _gradient_step(
    x: Tensor, operand: Tensor, targets: Tensor, stats: tuple[Tensor, Tensor], row_scale: Tensor, first: int
) -> None:
    """Write row_scale · (onehot - softmax) of the logits `x` into `operand`. The scale of a row with a target outside
    [0, V) must be NaN."""
    if launch.uses_triton(operand):
        kernels.tile_gradient(x, operand, targets, *stats, row_scale, first)
        return
    row_max, log_sum = (s.unsqueeze(1) for s in stats)
    here = ((targets >= first) & (targets < first + x.shape[1])).nonzero().squeeze(1)
    at = targets[here] - first
    x.sub_(row_max).sub_(log_sum).exp_()
    chosen = row_scale[here] * (1.0 - x[here, at])
    x.mul_(-row_scale.unsqueeze(1))
    x[here, at] = chosen


def scale_into_fp16_range(head: lm_head.Head, row_scale: Tensor) -> tuple[Tensor, Tensor | None]:
    """Row scales [R] that bring row_scale · (onehot - softmax) into the range of float16 operands, and the unit that
    multiplies the sums afterwards; `row_scale` itself and None for other dtypes. All rows have one unit, because the
    head's gradient adds them up: a row far below the largest has fewer digits."""
    shift = kernels.fp16_exponent_shift(head.compute)
    if not shift:
        return row_scale, None
    largest = row_scale.abs().nan_to_num(0.0, 0.0, 0.0).amax()  # NaN stays in its row; no synchronisation
    unit = largest.clamp(min=1e-30) * math.exp(-shift)
    return row_scale / unit, unit


def nan_where_target_invalid(x: Tensor, targets: Tensor, vocab: int) -> Tensor:
    """`x` [R] with NaN in rows whose target is outside [0, vocab)."""
    return x.masked_fill((targets < 0) | (targets >= vocab), float("nan"))


def recompute(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    stats: tuple[Tensor, Tensor],
    row_scale: Tensor,
    needs: Sequence[bool],
    limit: int | None,
    *,
    rounded: bool = True,
) -> Gradients:
    """Gradients of Σ_i row_scale_i · log p_i from the row maxima and log-sums of a forward pass; 2·H·V a product.

    The gradients of weight and bias have the dtypes of weight and bias, or the accumulation dtype if not `rounded`."""
    head, count, vocab = lm_head.head_of(hidden, weight, bias), len(hidden), len(weight)
    whole = Gradients.empty(hidden, weight[:0], None, needs)
    dtype = None if rounded else accumulation_dtype(hidden.dtype)
    if needs[1]:
        whole.weight = (weight.new_empty if count else weight.new_zeros)(weight.shape, dtype=dtype)
    if needs[2] and bias is not None:
        whole.bias = bias.new_zeros(bias.shape, dtype=dtype)
    if count == 0:
        return whole
    byte_limit = lm_head.byte_limit(limit, tiles.TILE_BYTES, hidden.device)
    rows, columns = tiles.tile_of(head, count, byte_limit, trained=needs[1])
    buffers = tiles.Buffers(head, rows, columns)
    factors, unit = scale_into_fp16_range(head, nan_where_target_invalid(row_scale, targets, vocab))
    for first in range(0, vocab, columns):
        of_tile = slice(first, min(first + columns, vocab))
        tile_bias = None if bias is None else bias[of_tile]
        into = Gradients.empty(hidden, weight[of_tile], tile_bias, (False, *needs[1:]))  # of this tile, rounded once
        into.hidden = whole.hidden
        for start in range(0, count, rows):
            chunk = slice(start, min(start + rows, count))
            h = hidden[chunk].to(head.compute)
            x, operand = buffers.of(len(h), of_tile.stop - first)
            tile = head.logits(h, first, x)
            _gradient_step(x, operand, targets[chunk], (stats[0][chunk], stats[1][chunk]), factors[chunk], first)
            into.add_products(operand, h, tile, chunk, first_tile=first == 0)
        into.hidden = None
        into.multiply_(unit)
        if whole.weight is not None and into.weight is not None:
            whole.weight[of_tile] = into.weight
        if whole.bias is not None and into.bias is not None:
            whole.bias[of_tile] = into.bias
    Gradients(whole.hidden, None, None).multiply_(unit)
    return whole


def row_chunks(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    row_scale: Tensor,
    needs: Sequence[bool],
    limit: int | None,
) -> tuple[Tensor, Gradients]:
    """log p [R] and the gradients of Σ_i row_scale_i · log p_i. Each logit is computed once; if fewer than
    MIN_CHUNK_ROWS whole rows fit in `limit`, `recompute` runs."""
    head, count, vocab = lm_head.head_of(hidden, weight, bias), len(hidden), len(weight)
    rows = lm_head.byte_limit(limit, tiles.ROW_CHUNK_BYTES, hidden.device) // (vocab * tiles.logit_bytes(head))
    if rows < min(count, tiles.MIN_CHUNK_ROWS):
        scores = vocabulary_pass(hidden, weight, bias, targets, gradient=False, limit=limit)
        stats = (scores.row_max, scores.log_sum)
        gradients = recompute(hidden, weight, bias, targets, stats, row_scale, needs, limit, rounded=False)
        return scores.log_probs, gradients
    into = Gradients.empty(hidden, weight, bias, needs)
    log_probs = hidden.new_empty(count, dtype=accumulation_dtype(hidden.dtype))
    if count:
        factors, unit = scale_into_fp16_range(head, nan_where_target_invalid(row_scale, targets, vocab))
        rows = min(rows, count)
        buffers = tiles.Buffers(head, rows, vocab)
        for start in range(0, count, rows):
            chunk = slice(start, min(start + rows, count))
            h, target = hidden[chunk].to(head.compute), targets[chunk]
            x, operand = buffers.of(len(h), vocab)
            tile = head.logits(h, 0, x)
            if launch.uses_triton(operand):
                statistics = whole_rows.forward(x.unsqueeze(1), target.unsqueeze(1), None, None, None, 0.0)
                log_probs[chunk], row_max, log_sum = (statistic.squeeze(1) for statistic in statistics)
                kernels.tile_gradient(x, operand, target, row_max, log_sum, factors[chunk], 0)
            else:
                log_probs[chunk] = _plain_row_step(x, target, factors[chunk])
            into.add_products(operand, h, tile, chunk, first_tile=True)
        into.multiply_(unit)
    return log_probs, into


def _plain_row_step(x: Tensor, targets: Tensor, row_scale: Tensor) -> Tensor:
    """Turn whole rows of logits into row_scale · (onehot - softmax) in place; returns log p(target)."""
    known = targets.clamp(0, x.shape[1] - 1).unsqueeze(1)
    chosen = nan_where_target_invalid(x.gather(1, known).squeeze(1), targets, x.shape[1])
    top = x.amax(1)
    top = top.masked_fill(top.isneginf(), 0.0)
    total = x.sub_(top.unsqueeze(1)).exp_().sum(1)
    log_probs = (chosen - top) - total.log()
    x.mul_((-row_scale / total).unsqueeze(1))
    x.scatter_(1, known, (row_scale * -torch.expm1(log_probs)).unsqueeze(1))
    return log_probs
