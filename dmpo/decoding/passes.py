"""The passes of a decoding step: the positions on which the model runs, and the keys and values that stay."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..models.masked_lm import unwrap
from .alike import Alike
from .cache import BlockCache
from .canvas import EVERYTHING, Canvas, Extent


class FullPass:
    """The model runs on the whole canvas at every step; every row goes at its own pace."""

    own_pace = True

    def __init__(self, canvas: Canvas, block_length: int) -> None:
        self.canvas, self.block_length = canvas, block_length

    def __call__(
        self, index: Tensor, start: Tensor, first: int | None, extent: Extent = EVERYTHING
    ) -> tuple[Tensor, Tensor | None]:
        """Hidden states of the block's positions, and of its shadow if there is one; [R, B, H] each."""
        canvas, alike = self.canvas, self.canvas.alike_now()
        inputs, rows, start = canvas.inputs(index)[:, : extent.columns], canvas.doubled(index), canvas.doubled(start)
        read = alike.one_of_each(start).unsqueeze(1) + torch.arange(self.block_length, device=start.device)
        hidden = canvas.run(
            alike.one_of_each(inputs), alike.one_of_each(rows), read=read, extent=_of_kinds(extent, canvas, alike)
        )
        return canvas.guided(alike.to_all(hidden)), None


class CachedPass:
    """A block's first step runs on the whole canvas and stores keys and values. Later steps run on the block and,
    without `suffix_cached`, on all positions after it. All rows are in one block; a row that has finished it leaves.

    stays: keys and values of all rows keep their place in memory, for `compiled_step`, which takes the later steps. A
    row that has ended keeps its old ones.
    """

    own_pace = False

    def __init__(self, canvas: Canvas, block_length: int, suffix_cached: bool, stays: bool = False) -> None:
        self.canvas, self.block_length, self.suffix_cached, self.stays = canvas, block_length, suffix_cached, stays
        self.cache: BlockCache | None = None  # of a block; if keys and values stay, of all blocks
        self.cached = torch.arange(0)  # the rows whose keys and values are stored, ascending

    def __call__(
        self, index: Tensor, start: Tensor, first: int | None, extent: Extent = EVERYTHING
    ) -> tuple[Tensor, Tensor | None]:
        """As `FullPass`; `first` is the block's first position at its first step, else None. All rows see as much."""
        canvas, alike = self.canvas, self.canvas.alike_now()
        inputs = canvas.inputs(index)[:, : extent.columns]
        if first is not None:
            self.first, rows = first, canvas.doubled(index)
            cache = self._empty_cache(index)
            read = torch.arange(first, first + self.block_length, device=inputs.device)
            hidden = canvas.run(
                alike.one_of_each(inputs), alike.one_of_each(rows), cache=cache, read=read, extent=extent
            )
            if alike.kind is not None:
                cache.batch_select_indices(alike.kind)
            self.cached = index
            return canvas.guided(alike.to_all(hidden)), None
        if len(index) < len(self.cached):
            self._keep(index)
        assert self.cache is not None
        begin = max(0, self.first - canvas.shift)
        stop = self.first + self.block_length if self.suffix_cached else inputs.shape[1]
        positions = self.cache.place.positions = torch.arange(begin, stop, device=inputs.device)
        offset, rows = self.first - begin, canvas.doubled(index)
        if self.suffix_cached:
            hidden = canvas.run(inputs[:, begin:stop], rows, positions, cache=self.cache, extent=extent)
            return canvas.guided(hidden[:, offset:]), None
        read = torch.arange(offset, offset + self.block_length, device=inputs.device)
        hidden = canvas.run(inputs[:, begin:stop], rows, positions, cache=self.cache, read=read, extent=extent)
        return canvas.guided(hidden), None

    def _empty_cache(self, index: Tensor) -> BlockCache:
        """A cache whose next pass writes all positions of the rows `index`."""
        if self.cache is None or not self.stays:
            layers = unwrap(self.canvas.model).config.num_hidden_layers
            self.cache = BlockCache(layers, stays=self.stays)
        place, everyone = self.cache.place, len(self.canvas.tokens)
        place.positions, place.rows = None, self._stored(index, everyone) if len(index) < everyone else None
        return self.cache

    def _keep(self, index: Tensor) -> None:
        """Drop the keys and values of all other rows."""
        assert self.cache is not None
        self.cache.batch_select_indices(self._stored(torch.searchsorted(self.cached, index), len(self.cached)))
        self.cached = index

    def _stored(self, rows: Tensor, count: int) -> Tensor:
        """Where the keys and values of `rows` are among those of `count` rows. With guidance, as many rows follow."""
        return torch.cat([rows, rows + count]) if self.canvas.cfg_scale else rows


class ShadowPass:
    """WINO's pass: a shadow of the block follows the canvas. It sees everything except the token that it verifies.

    The shadow's inputs are mask tokens at the block's positions. For a model that predicts at the left neighbour the
    shadow is one position further left, with one more token at the end to which no token attends.
    """

    own_pace = True

    def __init__(self, canvas: Canvas, block_length: int) -> None:
        self.canvas, self.block_length = canvas, block_length
        attention = unwrap(canvas.model).config._attn_implementation
        if attention not in ("sdpa", "eager"):
            raise ValueError(f"decoder 'wino' needs attn_implementation sdpa or eager for its mask, got {attention!r}")

    def __call__(
        self, index: Tensor, start: Tensor, first: int | None, extent: Extent = EVERYTHING
    ) -> tuple[Tensor, Tensor | None]:
        """As `FullPass`."""
        canvas, width, alike = self.canvas, self.block_length + self.canvas.shift, self.canvas.alike_now()
        inputs = alike.one_of_each(canvas.inputs(index)[:, : extent.columns])
        rows, start = alike.one_of_each(canvas.doubled(index)), alike.one_of_each(canvas.doubled(start))
        length, device, seen = inputs.shape[1], inputs.device, canvas.seen(rows, _of_kinds(extent, canvas, alike))
        shadow = torch.arange(width, device=device)
        position = torch.arange(length, device=device)
        block = start.unsqueeze(1) + shadow[: self.block_length]
        position_ids = (
            position.expand(len(rows), -1) if canvas.position_ids is None else canvas.position_ids[rows, :length]
        )
        behind = (start.unsqueeze(1) - canvas.shift + shadow).clamp(0, length - 1)
        attends = torch.zeros(len(rows), length + width, length + width, dtype=torch.bool, device=device)
        attends[:, :, :length] = True if seen is None else seen.unsqueeze(1)
        verified = (start.unsqueeze(1) + shadow).unsqueeze(-1) == position  # [R, width, T]
        verified[:, self.block_length :] = False
        attends[:, length:, :length] &= ~verified
        attends[:, length:, length : length + self.block_length] = True
        hidden = canvas.run(
            torch.cat([inputs, inputs.new_full((len(rows), width), canvas.mask_id)], 1),
            rows,
            mask=attends.unsqueeze(1),
            position_ids=torch.cat([position_ids, position_ids.gather(1, behind)], 1),
            read=torch.cat([block, (length + canvas.shift + shadow[: self.block_length]).expand_as(block)], 1),
        )
        hidden = alike.to_all(hidden)
        return canvas.guided(hidden[:, : self.block_length]), canvas.guided(hidden[:, self.block_length :])


def _of_kinds(extent: Extent, canvas: Canvas, alike: Alike) -> Extent:
    """The extent of one row of each kind."""
    return extent if extent.stop is None else replace(extent, stop=alike.one_of_each(canvas.doubled(extent.stop)))
