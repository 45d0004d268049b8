"""The canvas that the model sees: prompt and completion, padding, positions, guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..models.last_layer import HeadRows
from ..models.masked_lm import hidden_states, unwrap
from .alike import NO_ROWS_ALIKE, Alike
from .cache import BlockCache


@dataclass(frozen=True)
class Extent:
    """The columns of a canvas that a pass over R rows sees: up to `columns`, and each row up to its own `stop`.

    columns: those of the row that sees most; None: all. stop: int64 [R]; None: every row sees as many.
    """

    columns: int | None = None
    stop: Tensor | None = None


EVERYTHING = Extent()


@dataclass
class Canvas:
    """Prompts and completions of B rows, T = P + G positions.

    tokens int64 [B, T]; attended bool [B, T], None where nothing is padded; position_ids int64 [B, T], None: from 0.
    alike: the rows that are the same as long as all completions are masks. forwards, row_forwards and positions count
    model calls, the rows that went through them and the positions of these rows.
    """

    model: nn.Module
    tokens: Tensor
    attended: Tensor | None
    position_ids: Tensor | None
    prompt_length: int
    cfg_scale: float
    mask_id: int
    alike: Alike = NO_ROWS_ALIKE
    forwards: int = 0
    row_forwards: int = 0
    positions: int = 0

    @property
    def shift(self) -> int:
        """1 if a position is predicted at its left neighbour (Dream), else 0."""
        return unwrap(self.model).prediction_shift

    def inputs(self, index: Tensor) -> Tensor:
        """Tokens of chosen rows. With guidance the same rows without their prompt follow. [R or 2R, T]."""
        tokens = self.tokens[index]
        if not self.cfg_scale:
            return tokens
        unconditional = tokens.clone()
        unconditional[:, : self.prompt_length] = self.mask_id
        return torch.cat([tokens, unconditional])

    def guided(self, hidden: Tensor) -> Tensor:
        """One hidden state per row. The head is affine, so guiding its input guides the logits: h_u + (1+s)(h_c - h_u)
        instead of l_u + (1+s)(l_c - l_u), at half the cost. [R or 2R, ...] -> [R, ...]."""
        if not self.cfg_scale:
            return hidden
        conditional, unconditional = hidden.float().chunk(2) if hidden.dtype.itemsize < 4 else hidden.chunk(2)
        return (unconditional + (1 + self.cfg_scale) * (conditional - unconditional)).to(hidden.dtype)

    def doubled(self, index: Tensor) -> Tensor:
        """Row indices of `inputs`, to index tensors with one entry a row."""
        return index.repeat(2) if self.cfg_scale else index

    def alike_now(self) -> Alike:
        """Which rows of `inputs` of all rows are the same: some before the first model call, none after it."""
        return NO_ROWS_ALIKE if self.forwards else self.alike

    def run(self, inputs: Tensor, rows: Tensor, *arguments: Any, **named: Any) -> Tensor:
        """One model call, which is counted; arguments and result as of `call`."""
        self.count(len(inputs), inputs.shape[1])
        return self.call(inputs, rows, *arguments, **named)

    def count(self, rows: int, width: int) -> None:
        """Count one model call of so many rows, each of so many positions."""
        self.forwards += 1
        self.row_forwards += rows
        self.positions += rows * width

    def seen(self, rows: Tensor, extent: Extent) -> Tensor | None:
        """Which columns each of `rows` sees, bool [M, K]; None: all K columns of the extent."""
        seen = None if self.attended is None else self.attended[rows, : extent.columns]
        if extent.stop is None:
            return seen
        before = torch.arange(extent.columns or self.tokens.shape[1], device=rows.device) < extent.stop.unsqueeze(1)
        return before if seen is None else seen & before

    def call(
        self,
        inputs: Tensor,
        rows: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: BlockCache | None = None,
        read: Tensor | None = None,
        extent: Extent = EVERYTHING,
    ) -> Tensor:
        """Hidden states [M, q, H], or [M, Q, H] where `read` is given, of `inputs` int64 [M, q].

        rows: int64 [M], the canvas row of each row. positions: int64 [q], the canvas positions; None: all of them.
        mask and position_ids: in place of those of the canvas. read: int64 [Q] of every row, or [M, Q], the inputs
        whose predictions are read; the last layer runs on no others. extent: the columns that each row sees.
        """
        width = inputs.shape[1]
        if position_ids is None:
            if self.position_ids is not None:
                position_ids = self.position_ids[rows if positions is None else (rows.unsqueeze(1), positions)]
                position_ids = position_ids[:, :width]
            elif cache is not None:
                # The model would count on from the length of the cache.
                positions = torch.arange(width, device=inputs.device) if positions is None else positions
                position_ids = positions.unsqueeze(0)
        if mask is None:
            mask = self.seen(rows, extent)
            if mask is not None and unwrap(self.model).config._attn_implementation in ("sdpa", "eager"):
                # A complete mask: transformers would read an incomplete one, which waits for the device.
                mask = mask[:, None, None, :].expand(-1, 1, width, -1)
        kwargs: dict[str, Any] = {} if cache is None else {"past_key_values": cache, "use_cache": True}
        head_rows = None if read is None else HeadRows(read)
        return hidden_states(self.model, inputs, mask, position_ids, rows=head_rows, **kwargs)
