"""How linear cross-entropy walks its logits: bounded pieces of `hidden @ weight.T + bias`, never the whole.

Three walks, by what the gradient needs (H hidden size, V vocabulary, FLOPs of one row):

- `linear_ce_sweep.sweep`, frozen head: attention with keys = values = weight. Tiles of columns, a running maximum and
  sum, Σ p·weight in float32: log-probs and d log p / d hidden in one pass of 4·H·V (2·H·V without the gradient).
- `linear_ce_trained.row_chunks`, trainable head and row factors known beforehand: whole rows, a few at a time,
  gradient made on the spot: 6·H·V.
- `linear_ce_trained.recompute`, trainable head and any upstream gradient: tiles again in the backward, each tile of
  the head's gradient written once: 2·H·V forward and 6·H·V backward.

Which walk is kept was measured on one CPU thread at V = 126464, H = 128, 1024 rows (CPU seconds): frozen head, tiles
0.70, row chunks 1.33 (16 MiB) to 0.97 (64 MiB); trainable head, row chunks 1.45, tiles with recomputation 0.41 +
1.18. Tiles of 512 to 4096 columns differ by 10 %. On a GPU the same choice rests on FLOPs and traffic alone: not
measured.

Products of half-precision inputs accumulate and are kept in float32. The target's entry of a gradient is formed as
1 - p in float32. On a GPU the steps between products are Triton kernels in place on the piece; the products are
torch's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from . import launch
from . import linear_ce_triton as kernels
from .reference import wide

SWEEP_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}  # default bounds of a piece, by device
ROW_CHUNK_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}
PLAIN_COLUMNS, TRITON_COLUMNS = 1024, kernels.BLOCK  # of a tile, wider ones on a GPU where rows are few
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
        product(hidden, tile.t(), out)
        if self.bias is not None:
            out.add_(self.bias[first : first + out.shape[1]].to(out.dtype))
        return tile


def head_of(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Head:
    on_gpu = hidden.device.type == "cuda"
    return Head(weight, bias, hidden.dtype if on_gpu and launch.uses_triton(hidden) else wide(hidden.dtype))


def bound(limit: int | None, defaults: dict[str, int], device: torch.device) -> int:
    return defaults.get(device.type, defaults["cpu"]) if limit is None else limit


def piece_bytes(head: Head) -> int:
    """Per logit: the wide one, and a half-precision copy for the next product where the inputs are half precision."""
    wide_bytes = wide(head.compute).itemsize
    return wide_bytes if head.compute == wide(head.compute) else wide_bytes + head.compute.itemsize


def pieces(head: Head, rows: int, limit: int, *, trained: bool = False) -> tuple[int, int]:
    """(rows, columns) of a piece of at most `limit` bytes (one logit at least). trained: a tile's gradient of the head
    is held beside it."""
    beside = head.weight.shape[1] * wide(head.compute).itemsize if trained else 0
    return piece_shape(
        len(head.weight), rows, limit, piece_bytes(head), on_gpu=launch.uses_triton(head.weight), beside=beside
    )


def piece_shape(
    vocab: int, rows: int, limit: int, logit_bytes: int, *, on_gpu: bool, beside: int = 0
) -> tuple[int, int]:
    """(rows, columns) of a piece. beside: bytes that are held for each column, whatever the rows.

    On a GPU a tile takes about three launches of 30 µs each on the host. Rows that fill the piece at most by half get
    fewer and wider tiles, which together with what lies beside them hold no more than a full piece does.
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
    """The piece: `logits` float32 or float64, and `operand`, what the next product reads; one memory where dtypes
    agree."""

    def __init__(self, head: Head, rows: int, columns: int) -> None:
        pitch = -(-columns // kernels.PITCH) * kernels.PITCH
        self.logits = head.weight.new_empty(rows, pitch, dtype=wide(head.compute))
        same = head.compute == self.logits.dtype
        self.operand = self.logits if same else head.weight.new_empty(rows, pitch, dtype=head.compute)


def product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """out = a @ b, accumulated and kept in the dtype of `out`; half-precision operands on a GPU only."""
    return torch.mm(a, b, out=out) if a.dtype == out.dtype else torch.mm(a, b, out_dtype=out.dtype, out=out)


def add_product(into: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """into += a @ b in place, accumulated and kept in the dtype of `into`; half-precision operands on a GPU only."""
    # `addmm_` is unknown to PyTorch's FLOP counters, and has no out_dtype.
    if a.dtype == into.dtype:
        return torch.addmm(into, a, b, out=into)
    return torch.addmm(into, a, b, out_dtype=into.dtype, out=into)


def accumulate(into: Tensor, a: Tensor, b: Tensor, *, fresh: bool = False) -> None:
    """into += a @ b in the dtype of `into`. fresh: whatever `into` held is overwritten."""
    (product(a, b, into) if fresh else add_product(into, a, b))


@contextmanager
def settings(hidden: Tensor) -> Iterator[None]:
    """Inside an op: products in the dtype they are given, launches where the tensors are."""
    with torch.autocast(hidden.device.type, enabled=False), launch.on_device(hidden):
        yield


def refuse_double_backward() -> None:
    """The backward of an op that keeps its gradient raises under create_graph=True."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "linear cross-entropy keeps its gradient, not the graph of it: no double backward (create_graph=True); "
            "use dmpo.kernels.reference for second derivatives"
        )
