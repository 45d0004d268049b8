"""Linear cross-entropy with a frozen head: the vocabulary walked once, in tiles, with an online softmax."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import launch
from . import linear_ce_tiles as tiles
from . import linear_ce_triton as kernels
from .reference import wide


@dataclass(frozen=True)
class Sweep:
    """[R] log-probs, maxima and logarithms of Σ exp(x - max); [R, H] c · d log p / d hidden, wide, or None."""

    log_probs: Tensor
    row_max: Tensor
    log_sum: Tensor
    gradient: Tensor | None


@dataclass(frozen=True)
class _Rows:
    """The rows [R] of one piece, walked by tiles of `columns`.

    To be written: log_probs, row_max and log_sum [R], and slope [R, H], which c [R] scales.
    """

    head: tiles.Head
    hidden: Tensor
    targets: Tensor
    columns: int
    buffers: tiles.Buffers
    log_probs: Tensor
    row_max: Tensor
    log_sum: Tensor
    slope: Tensor | None
    c: Tensor | None


def sweep(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    gradient: bool,
    limit: int | None,
    c: Tensor | None = None,
) -> Sweep:
    """Walk the vocabulary once. hidden [R, H], targets [R]; c [R], else 1, scales the gradient."""
    head = tiles.head_of(hidden, weight, bias)
    dtype, size = wide(hidden.dtype), len(hidden)
    stats = [hidden.new_empty(size, dtype=dtype) for _ in range(3)]
    slope = hidden.new_empty(hidden.shape, dtype=dtype) if gradient else None
    if size:
        rows, columns = tiles.pieces(head, size, tiles.bound(limit, tiles.SWEEP_BYTES, hidden.device))
        buffers = tiles.Buffers(head, rows, columns)
        walk = _triton_walk if launch.uses_triton(hidden) else _plain_walk
        for start in range(0, size, rows):
            part = slice(start, start + rows)
            h, part_c = hidden[part].to(head.compute), None if c is None else c[part]
            out = None if slope is None else slope[part]
            log_probs, row_max, log_sum = (x[part] for x in stats)
            walk(_Rows(head, h, targets[part], columns, buffers, log_probs, row_max, log_sum, out, part_c))
    return Sweep(stats[0], stats[1], stats[2], slope)


def _finish(rows: _Rows, log_probs: Tensor, total: Tensor) -> None:
    """slope = Σ_{v ≠ y} p̃·w_v becomes c · d log p / d hidden = c·(1 - p_y)·w_y - c·Σ_{v ≠ y} p_v·w_v."""
    slope, weight = rows.slope, rows.head.weight
    if slope is None:
        return
    own, others = -torch.expm1(log_probs), -1 / total
    if rows.c is not None:
        own, others = own * rows.c, -rows.c / total
    targets = weight[rows.targets.clamp(0, len(weight) - 1)].to(slope.dtype)
    slope.mul_(others.unsqueeze(1)).addcmul_(targets, own.unsqueeze(1))


def _plain_walk(rows: _Rows) -> None:
    """Rows of one piece. (Leaving the maximum of the first tile in place saves 10 % of the time and costs digits
    where p is near 1.)"""
    head, slope = rows.head, rows.slope
    size, vocab = len(rows.hidden), len(head.weight)
    row_max = rows.hidden.new_full((size,), float("-inf"))
    total = rows.hidden.new_zeros(size)
    chosen = rows.hidden.new_full((size,), float("nan"))  # stays so for a target outside [0, V)
    for first in range(0, vocab, rows.columns):
        width = min(rows.columns, vocab - first)
        x = rows.buffers.logits.view(-1)[: size * width].view(size, width)
        tile = head.logits(rows.hidden, first, x)
        here = ((rows.targets >= first) & (rows.targets < first + width)).nonzero().squeeze(1)
        at = rows.targets[here] - first
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
        x[here, at] = 0.0
        tiles.accumulate(slope, x, tile, fresh=not first)
    rows.row_max.copy_(row_max)
    torch.log(total, out=rows.log_sum)
    torch.sub(chosen - row_max, rows.log_sum, out=rows.log_probs)
    _finish(rows, rows.log_probs, total)


def _triton_walk(rows: _Rows) -> None:
    """Rows of one piece, the step between products in Triton; the host waits for nothing."""
    head, slope = rows.head, rows.slope
    size, vocab = len(rows.hidden), len(head.weight)
    for first in range(0, vocab, rows.columns):
        width = min(rows.columns, vocab - first)
        x = rows.buffers.logits[:size, :width]
        probs = None if slope is None else rows.buffers.operand[:size, :width]
        tile = head.logits(rows.hidden, first, x)
        before = slope if first else None
        kernels.tile_softmax(x, probs, before, rows.targets, rows.log_probs, rows.row_max, rows.log_sum, first)
        if slope is not None and probs is not None:
            tiles.accumulate(slope, probs, tile, fresh=not first)
    stats = (rows.log_probs, rows.row_max, rows.log_sum)
    kernels.finish(head.weight, slope, rows.targets, *stats, rows.c, head.compute)
