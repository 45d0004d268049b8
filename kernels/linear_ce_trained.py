"""Linear cross-entropy with a trainable head: its gradients, from whole rows or from tiles once more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import launch, masked_ce_triton
from . import linear_ce_tiles as tiles
from . import linear_ce_triton as kernels
from .linear_ce_sweep import sweep
from .reference import wide


@dataclass
class Gradients:
    """Of hidden [R, H], weight [V, H] and bias [V], wide while they accumulate; None where not wanted."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def empty(cls, hidden: Tensor, weight: Tensor, bias: Tensor | None, needs: Sequence[bool]) -> Gradients:
        """Zeros for the bias, and for the others memory that the first of their products writes; zeros without rows."""
        dtype, made = wide(hidden.dtype), hidden.new_empty if len(hidden) else hidden.new_zeros
        return cls(
            made(hidden.shape, dtype=dtype) if needs[0] else None,
            made(weight.shape, dtype=dtype) if needs[1] else None,
            bias.new_zeros(bias.shape, dtype=dtype) if needs[2] and bias is not None else None,
        )

    def scale_(self, unit: Tensor | None) -> None:
        """Multiply what is there by `unit`, a number on the device."""
        for gradient in (self.hidden, self.weight, self.bias):
            if unit is not None and gradient is not None:
                gradient.mul_(unit)


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


def _in_range(head: tiles.Head, c: Tensor) -> tuple[Tensor, Tensor | None]:
    """Factors [R] that keep c · (onehot - softmax) in the range of float16 operands, whatever the size of `c`, and the
    unit that their sums are then in; `c` itself and None for other dtypes. One unit serves all rows, for the head's
    gradient adds them up: a row far below the largest has fewer digits."""
    boost = kernels.boost(head.compute)
    if not boost:
        return c, None
    largest = c.abs().nan_to_num(0.0, 0.0, 0.0).amax()  # a poisoned row stays alone; no synchronisation
    unit = largest.clamp(min=1e-30) * math.exp(-boost)
    return c / unit, unit


def _add_products(
    into: Gradients,
    operand: Tensor,
    hidden: Tensor,
    tile: Tensor,
    rows: slice,
    *,
    first_tile: bool,
) -> None:
    if into.hidden is not None:
        tiles.accumulate(into.hidden[rows], operand, tile, fresh=first_tile)
    if into.weight is not None:
        tiles.accumulate(into.weight, operand.t(), hidden, fresh=rows.start == 0)
    if into.bias is not None:
        into.bias += operand.sum(0, dtype=into.bias.dtype)


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
    head, size, vocab = tiles.head_of(hidden, weight, bias), len(hidden), len(weight)
    whole = Gradients.empty(hidden, weight[:0], None, needs)
    dtype = None if rounded else wide(hidden.dtype)
    if needs[1]:
        whole.weight = (weight.new_empty if size else weight.new_zeros)(weight.shape, dtype=dtype)
    if needs[2] and bias is not None:
        whole.bias = bias.new_zeros(bias.shape, dtype=dtype)
    if size == 0:
        return whole
    bound = tiles.bound(limit, tiles.SWEEP_BYTES, hidden.device)
    rows, columns = tiles.pieces(head, size, bound, trained=needs[1])
    buffers = tiles.Buffers(head, rows, columns)
    factors, unit = _in_range(head, _poison(c, targets, vocab))
    for first in range(0, vocab, columns):
        tile_of = slice(first, min(first + columns, vocab))
        width = tile_of.stop - first
        part_bias = None if bias is None else bias[tile_of]
        into = Gradients.empty(hidden, weight[tile_of], part_bias, (False, *needs[1:]))  # the tile's own: rounded once
        into.hidden = whole.hidden
        for start in range(0, size, rows):
            part = slice(start, min(start + rows, size))
            h = hidden[part].to(head.compute)
            x, operand = buffers.logits[: len(h), :width], buffers.operand[: len(h), :width]
            tile = head.logits(h, first, x)
            _gradient_step(x, operand, targets[part], (stats[0][part], stats[1][part]), factors[part], first)
            _add_products(into, operand, h, tile, part, first_tile=first == 0)
        into.hidden = None
        into.scale_(unit)
        if whole.weight is not None and into.weight is not None:
            whole.weight[tile_of] = into.weight
        if whole.bias is not None and into.bias is not None:
            whole.bias[tile_of] = into.bias
    Gradients(whole.hidden, None, None).scale_(unit)
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
    head, size, vocab = tiles.head_of(hidden, weight, bias), len(hidden), len(weight)
    rows = tiles.bound(limit, tiles.ROW_CHUNK_BYTES, hidden.device) // (vocab * tiles.piece_bytes(head))
    if rows < min(size, tiles.MIN_CHUNK_ROWS):
        found = sweep(hidden, weight, bias, targets, gradient=False, limit=limit)
        stats = (found.row_max, found.log_sum)
        return found.log_probs, recompute(hidden, weight, bias, targets, stats, c, needs, limit, rounded=False)
    into = Gradients.empty(hidden, weight, bias, needs)
    log_probs = hidden.new_empty(size, dtype=wide(hidden.dtype))
    if size:
        factors, unit = _in_range(head, _poison(c, targets, vocab))
        rows = min(rows, size)
        buffers = tiles.Buffers(head, rows, vocab)
        for start in range(0, size, rows):
            part = slice(start, min(start + rows, size))
            h, target = hidden[part].to(head.compute), targets[part]
            x, operand = buffers.logits[: len(h), :vocab], buffers.operand[: len(h), :vocab]
            tile = head.logits(h, 0, x)
            factor = factors[part]
            if launch.uses_triton(operand):
                found3 = masked_ce_triton.forward(x.unsqueeze(1), target.unsqueeze(1), None, None, None, 0.0)
                log_probs[part], row_max, log_sum = (s.squeeze(1) for s in found3)
                kernels.tile_gradient(x, operand, target, row_max, log_sum, factor, 0)
            else:
                log_probs[part] = _plain_chunk_step(x, target, factor)
            _add_products(into, operand, h, tile, part, first_tile=True)
        into.scale_(unit)
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
