"""The size of a tile of logits: how many rows, times how many columns of the vocabulary.

Three algorithms use tiles. The gradient decides which one runs (H hidden size, V vocabulary, FLOPs of one row):

- `frozen_head.vocabulary_pass` is attention with keys = values = weight. It takes vocabulary tiles with a running
  maximum and sum, and adds up Σ p·weight in float32. One pass of 4·H·V gives log-probs and d log p / d hidden (2·H·V
  gives log-probs alone).
- `trainable_head.row_chunks` needs the row scales beforehand. It takes chunks of whole rows and computes the gradient
  with them: 6·H·V.
- `trainable_head.recompute` takes any upstream gradient. The backward computes the tiles again and writes each tile of
  the head's gradient once: 2·H·V forward and 6·H·V backward.

docs/kernels.md has the measurements behind the choice. The target's entry of a gradient is computed as 1 - p in
float32. On a GPU torch computes the products, and Triton kernels change the tile in place between them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import launch
from ..arithmetic import accumulation_dtype
from ..head import Head
from . import triton_kernels as kernels

TILE_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}  # default limits of a tile, by device
ROW_CHUNK_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}  # default limits of a chunk of whole rows
PLAIN_COLUMNS, TRITON_COLUMNS = 1024, kernels.BLOCK  # of a tile; on a GPU tiles of few rows are wider
MIN_CHUNK_ROWS = 32  # with fewer rows a chunk the products would read the head too often


def logit_bytes(head: Head) -> int:
    """Bytes of one logit: float32 or float64, and a half-precision copy if the operands of products have half
    precision."""
    dtype = accumulation_dtype(head.compute)
    return dtype.itemsize if head.compute == dtype else dtype.itemsize + head.compute.itemsize


def tile_of(head: Head, rows: int, limit: int, *, trained: bool = False) -> tuple[int, int]:
    """(rows, columns) of a tile of at most `limit` bytes (one logit at least). trained: the tile's gradient of the head
    needs memory, too."""
    beside = head.weight.shape[1] * accumulation_dtype(head.compute).itemsize if trained else 0
    on_gpu = launch.uses_triton(head.weight)
    return tile_shape(len(head.weight), rows, limit, logit_bytes(head), on_gpu=on_gpu, beside=beside)


def tile_shape(
    vocab: int, rows: int, limit: int, logit_bytes: int, *, on_gpu: bool, beside: int = 0
) -> tuple[int, int]:
    """(rows, columns) of a tile. beside: further bytes for each column, whatever the number of rows.

    On a GPU a tile takes about three launches of 30 µs each on the host. If the rows fill at most half of the limit,
    tiles become fewer and wider. Tile and further bytes together are then no more than for a full tile.
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
    """Memory of a tile: `logits` (float32 or float64) and `operand`, which the next product reads. Both are one tensor
    if their dtypes agree."""

    def __init__(self, head: Head, rows: int, columns: int) -> None:
        pitch = -(-columns // kernels.PITCH) * kernels.PITCH
        self.logits = head.weight.new_empty(rows, pitch, dtype=accumulation_dtype(head.compute))
        same = head.compute == self.logits.dtype
        self.operand = self.logits if same else head.weight.new_empty(rows, pitch, dtype=head.compute)

    def of(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """The first rows and columns of `logits` and of `operand`."""
        return self.logits[:rows, :columns], self.operand[:rows, :columns]


def refuse_double_backward() -> None:
    """Raise under create_graph=True: an op that stores its gradient has no double backward."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "create_graph=True: linear cross-entropy stores its gradient without a graph and has no double backward; "
            "use dmpo.kernels.reference for second derivatives"
        )
