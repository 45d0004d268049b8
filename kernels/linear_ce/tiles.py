"""How large a tile of logits is: so many rows times so many columns of the vocabulary, never the whole.

Three walks take them, by what the gradient needs (H hidden size, V vocabulary, FLOPs of one row):

- `frozen_head.vocabulary_pass`: attention with keys = values = weight. Tiles of the vocabulary, a running maximum and
  sum, Σ p·weight in float32: log-probs and d log p / d hidden in one pass of 4·H·V (2·H·V without the gradient).
- `trainable_head.row_chunks`, row scales known beforehand: whole rows, a chunk at a time, gradient made on the spot:
  6·H·V.
- `trainable_head.recompute`, any upstream gradient: tiles again in the backward, each tile of the head's gradient
  written once: 2·H·V forward and 6·H·V backward.

Measurements behind the choice are in docs/kernels.md. The target's entry of a gradient is formed as 1 - p in float32.
On a GPU the steps between products are Triton kernels in place on the tile; the products are torch's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import launch
from ..arithmetic import accumulation_dtype
from ..head import Head
from . import triton_kernels as kernels

TILE_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}  # default limits of a tile, by device
ROW_CHUNK_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}  # the same of a chunk of whole rows
PLAIN_COLUMNS, TRITON_COLUMNS = 1024, kernels.BLOCK  # of a tile, wider ones on a GPU where rows are few
MIN_CHUNK_ROWS = 32  # a product of fewer whole rows reads the head too often


def logit_bytes(head: Head) -> int:
    """Of one logit: float32 or float64, and a half-precision copy for the next product where its operands are such."""
    wide = accumulation_dtype(head.compute)
    return wide.itemsize if head.compute == wide else wide.itemsize + head.compute.itemsize


def tile_of(head: Head, rows: int, limit: int, *, trained: bool = False) -> tuple[int, int]:
    """(rows, columns) of a tile of at most `limit` bytes (one logit at least). trained: a tile's gradient of the head
    is held beside it."""
    beside = head.weight.shape[1] * accumulation_dtype(head.compute).itemsize if trained else 0
    on_gpu = launch.uses_triton(head.weight)
    return tile_shape(len(head.weight), rows, limit, logit_bytes(head), on_gpu=on_gpu, beside=beside)


def tile_shape(
    vocab: int, rows: int, limit: int, logit_bytes: int, *, on_gpu: bool, beside: int = 0
) -> tuple[int, int]:
    """(rows, columns) of a tile. beside: bytes that are held for each column, whatever the rows.

    On a GPU a tile takes about three launches of 30 µs each on the host. Rows that fill the limit at most by half get
    fewer and wider tiles, which together with what lies beside them hold no more than a full tile does.
    """
    elements = max(1, limit // logit_bytes)
    columns = min(vocab, TRITON_COLUMNS if on_gpu else PLAIN_COLUMNS, elements)
    rows = max(1, min(rows, elements // columns))
    widest = (elements * logit_bytes + columns * beside) // (rows * logit_bytes + beside)
    widest -= widest % kernels.PITCH
    if not on_gpu or widest < 2 * columns:
        return rows, columns
    tiles = -(-vocab // widest)
    columns = -(-vocab // tiles)
    return rows, columns if tiles == 1 else -(-columns // kernels.PITCH) * kernels.PITCH


class Buffers:
    """Memory of a tile: `logits` float32 or float64, and `operand`, what the next product reads; one memory where
    dtypes agree."""

    def __init__(self, head: Head, rows: int, columns: int) -> None:
        pitch = -(-columns // kernels.PITCH) * kernels.PITCH
        self.logits = head.weight.new_empty(rows, pitch, dtype=accumulation_dtype(head.compute))
        same = head.compute == self.logits.dtype
        self.operand = self.logits if same else head.weight.new_empty(rows, pitch, dtype=head.compute)

    def of(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """The first rows and columns of both."""
        return self.logits[:rows, :columns], self.operand[:rows, :columns]


def refuse_double_backward() -> None:
    """The backward of an op that keeps its gradient raises under create_graph=True."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "create_graph=True: linear cross-entropy keeps its gradient and not the graph of it, so it has no double "
            "backward; use dmpo.kernels.reference for second derivatives"
        )
