"""Linear cross-entropy with a frozen head: one pass over the vocabulary, in tiles, with an online softmax."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import head as lm_head
from .. import launch
from ..arithmetic import accumulation_dtype
from . import tiles
from . import triton_kernels as kernels


@dataclass(frozen=True)
class PassResult:
    """log p, max x and log Σ exp(x - max), each [R]; row_scale · d log p / d hidden [R, H], or None."""

    log_probs: Tensor
    row_max: Tensor
    log_sum: Tensor
    grad_hidden: Tensor | None


@dataclass(frozen=True)
class _RowChunk:
    """R rows that make one pass over the vocabulary together, in tiles of `columns`.

    Outputs: log_probs, row_max and log_sum [R], and grad_hidden [R, H], which row_scale [R] multiplies.
    """

    head: lm_head.Head
    hidden: Tensor
    targets: Tensor
    columns: int
    buffers: tiles.Buffers
    log_probs: Tensor
    row_max: Tensor
    log_sum: Tensor
    grad_hidden: Tensor | None
    row_scale: Tensor | None


def vocabulary_pass(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    gradient: bool,
    limit: int | None,
    row_scale: Tensor | None = None,
) -> PassResult:
    """One pass over the vocabulary. hidden [R, H], targets [R]; row_scale [R] (None: 1) multiplies the gradient."""
    head = lm_head.head_of(hidden, weight, bias)
    dtype, count = accumulation_dtype(hidden.dtype), len(hidden)
    log_probs, row_max, log_sum = (hidden.new_empty(count, dtype=dtype) for _ in range(3))
    grad_hidden = hidden.new_empty(hidden.shape, dtype=dtype) if gradient else None
    if count:
        rows, columns = tiles.tile_of(head, count, lm_head.byte_limit(limit, tiles.TILE_BYTES, hidden.device))
        buffers = tiles.Buffers(head, rows, columns)
        take_pass = _triton_pass if launch.uses_triton(hidden) else _plain_pass
        for start in range(0, count, rows):
            chunk = slice(start, start + rows)
            take_pass(
                _RowChunk(
                    head,
                    hidden[chunk].to(head.compute),
                    targets[chunk],
                    columns,
                    buffers,
                    log_probs[chunk],
                    row_max[chunk],
                    log_sum[chunk],
                    grad_hidden=None if grad_hidden is None else grad_hidden[chunk],
                    row_scale=None if row_scale is None else row_scale[chunk],
                )
            )
    return PassResult(log_probs, row_max, log_sum, grad_hidden)


def _finish(chunk: _RowChunk, total: Tensor) -> None:
    """Turn grad_hidden = Σ_{v ≠ y} p̃·w_v into s · d log p / d hidden = s·(1 - p_y)·w_y - s·Σ_{v ≠ y} p_v·w_v, where s
    is the row's scale."""
    grad_hidden, weight = chunk.grad_hidden, chunk.head.weight
    if grad_hidden is None:
        return
    own, others = -torch.expm1(chunk.log_probs), -1 / total
    if chunk.row_scale is not None:
        own, others = own * chunk.row_scale, -chunk.row_scale / total
    of_targets = weight[chunk.targets.clamp(0, len(weight) - 1)].to(grad_hidden.dtype)
    grad_hidden.mul_(others.unsqueeze(1)).addcmul_(of_targets, own.unsqueeze(1))


def _plain_pass(chunk: _RowChunk) -> None:
    """The pass of one row chunk in PyTorch. (To use the first tile's maximum throughout would save 10 % of the time and
    cost digits where p is near 1.)"""
    head, grad_hidden = chunk.head, chunk.grad_hidden
    rows, vocab = len(chunk.hidden), len(head.weight)
    row_max = chunk.hidden.new_full((rows,), float("-inf"))
    total = chunk.hidden.new_zeros(rows)
    chosen = chunk.hidden.new_full((rows,), float("nan"))  # stays so for a target outside [0, V)
    for first in range(0, vocab, chunk.columns):
        width = min(chunk.columns, vocab - first)
        x = chunk.buffers.logits.view(-1)[: rows * width].view(rows, width)
        tile = head.logits(chunk.hidden, first, x)
        here = ((chunk.targets >= first) & (chunk.targets < first + width)).nonzero().squeeze(1)
        at = chunk.targets[here] - first
        chosen[here] = x[here, at]
        top = torch.maximum(row_max, x.amax(1))
        shift = top.masked_fill(top.isneginf(), 0.0)
        alpha = torch.exp(row_max - shift)
        row_max = top
        x.sub_(shift.unsqueeze(1)).exp_()
        total.mul_(alpha).add_(x.sum(1))
        if grad_hidden is None:
            continue
        if first and bool((alpha != 1).any()):
            grad_hidden.mul_(alpha.unsqueeze(1))
        x[here, at] = 0.0
        lm_head.accumulate(grad_hidden, x, tile, fresh=not first)
    chunk.row_max.copy_(row_max)
    torch.log(total, out=chunk.log_sum)
    torch.sub(chosen - row_max, chunk.log_sum, out=chunk.log_probs)
    _finish(chunk, total)


def _triton_pass(chunk: _RowChunk) -> None:
    """The pass of one row chunk, with Triton kernels between the products; the host waits for nothing."""
    head, grad_hidden = chunk.head, chunk.grad_hidden
    rows, vocab = len(chunk.hidden), len(head.weight)
    stats = (chunk.log_probs, chunk.row_max, chunk.log_sum)
    for first in range(0, vocab, chunk.columns):
        x, operand = chunk.buffers.of(rows, min(chunk.columns, vocab - first))
        probs = None if grad_hidden is None else operand
        tile = head.logits(chunk.hidden, first, x)
        kernels.tile_softmax(x, probs, grad_hidden if first else None, chunk.targets, *stats, first)
        if grad_hidden is not None:
            lm_head.accumulate(grad_hidden, operand, tile, fresh=not first)
    kernels.finish(head.weight, grad_hidden, chunk.targets, *stats, chunk.row_scale, head.compute)
