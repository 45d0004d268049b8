"""The pass of a block-causal model beside the keys and values of all tokens before its block."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.block_causal import cached_block_mask
from ..models.masked_lm import unwrap
from .cache import BlockCache
from .canvas import EVERYTHING, Canvas, Extent


class BlockCausalPass:
    """The model runs on the block, and attends to stored keys and values of what precedes it. This is exact: a token
    attends to no later block, so what is stored stays right.

    The first pass runs on the prompt and the first block. What a block stores while it has masks is wrong afterwards.
    So a pass in which a row begins a block runs on two blocks, the finished one and the new one, of every row.
    """

    own_pace = True

    def __init__(self, canvas: Canvas, block_length: int) -> None:
        size, tokens = unwrap(canvas.model).block_size, canvas.tokens
        assert size is not None
        self.canvas, self.block_length, self.size = canvas, block_length, size
        self.attended = torch.ones_like(tokens, dtype=torch.bool) if canvas.attended is None else canvas.attended
        self.cache: BlockCache | None = None
        self.cached = torch.arange(0)  # the rows whose keys and values are stored, ascending

    def __call__(
        self, index: Tensor, start: Tensor, first: int | None, extent: Extent = EVERYTHING
    ) -> tuple[Tensor, Tensor | None]:
        """As `FullPass`. `first` is None where no row begins a block; the extent ends with the last row's block."""
        canvas, length = self.canvas, self.block_length
        rows, start = canvas.doubled(index), canvas.doubled(start)
        block = torch.arange(length, device=start.device)
        if self.cache is None:
            return self._first(index, rows, start.unsqueeze(1) + block, extent), None
        if len(index) < len(self.cached):
            stored = torch.searchsorted(self.cached, index)
            both = torch.cat([stored, stored + len(self.cached)]) if canvas.cfg_scale else stored
            self.cache.batch_select_indices(both)
            self.cached = index
        width = min(length + canvas.shift if first is None else 2 * length, canvas.tokens.shape[1])
        begin = (start - (width - length)).clamp(min=0)
        positions = begin.unsqueeze(1) + torch.arange(width, device=start.device)
        place = self.cache.place
        place.positions, place.seen = positions, extent.columns
        at = positions if canvas.position_ids is None else canvas.position_ids[rows].gather(1, positions)
        hidden = canvas.run(
            canvas.inputs(index).gather(1, positions),
            rows,
            mask=cached_block_mask(self.attended[rows], positions, self.size)[..., : extent.columns],
            position_ids=at,
            cache=self.cache,
            read=(start - begin).unsqueeze(1) + block,
        )
        return canvas.guided(hidden), None

    def _first(self, index: Tensor, rows: Tensor, read: Tensor, extent: Extent) -> Tensor:
        """Hidden states of the first blocks, int64 [R, B] on the canvas; one row of each kind runs."""
        canvas, alike = self.canvas, self.canvas.alike_now()
        layers, width = unwrap(canvas.model).config.num_hidden_layers, canvas.tokens.shape[1]
        self.cache, self.cached = BlockCache(layers, width=width), index
        inputs, kinds = alike.one_of_each(canvas.inputs(index)[:, : extent.columns]), alike.one_of_each(rows)
        attended = self.attended[kinds, : extent.columns]
        everywhere = torch.arange(inputs.shape[1], device=inputs.device).expand_as(inputs)
        self.cache.place.seen = extent.columns
        hidden = canvas.run(
            inputs,
            kinds,
            mask=cached_block_mask(attended, everywhere, self.size),
            position_ids=everywhere if canvas.position_ids is None else canvas.position_ids[kinds, : extent.columns],
            cache=self.cache,
            read=alike.one_of_each(read),
        )
        if alike.kind is not None:
            self.cache.batch_select_indices(alike.kind)
        return canvas.guided(alike.to_all(hidden))
