"""Keys and values of a whole canvas. Later passes overwrite only the positions on which they run."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin


class Place:
    """positions: int64 [q], the positions that the next pass writes in every row, or [r, q]; None: all positions.

    rows: int64 [r], the rows of the next pass over all positions; None: all rows.
    seen: so many columns are given to the attention of the next pass; None: all columns.
    stays: keys and values stay at one address from block to block, as CUDA graphs need it.
    width: columns that a layer has room for; None: as many as its first pass writes.
    """

    def __init__(self, stays: bool, width: int | None) -> None:
        self.positions: Tensor | None = None
        self.rows: Tensor | None = None
        self.seen: int | None = None
        self.stays, self.width = stays, width


class BlockLayer(CacheLayerMixin):
    """One layer's keys (after RoPE) and values, [R, heads, T, head size].

    The first pass fills it from its first column on; each later pass writes at `place.positions`. A layer refers to the
    place and not to its cache: in a cycle of references the tensors would live on until Python collects cycles.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        room = (self.place.width or key_states.shape[2]) - key_states.shape[2]
        self._hold(*(nn.functional.pad(x, (0, 0, 0, room)) if room else x for x in (key_states, value_states)))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        place = self.place
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        elif place.positions is not None and place.positions.dim() == 2:
            at = place.positions[:, None, :, None].expand_as(key_states)
            self.keys.scatter_(2, at, key_states)
            self.values.scatter_(2, at, value_states)
        elif place.positions is not None:
            self.keys.index_copy_(2, place.positions, key_states)
            self.values.index_copy_(2, place.positions, value_states)
        elif place.rows is not None:
            self.keys.index_copy_(0, place.rows, key_states)
            self.values.index_copy_(0, place.rows, value_states)
            return key_states, value_states
        else:
            self.keys.copy_(key_states)
            self.values.copy_(value_states)
        if place.seen is not None:
            return self.keys[:, :, : place.seen], self.values[:, :, : place.seen]
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return (self.keys.shape[2] if self.is_initialized else query_length), 0

    def get_seq_length(self) -> int:
        return 0  # callers give position ids; no pass appends

    def get_max_length(self) -> int:
        return self.keys.shape[2] if self.is_initialized else -1

    def batch_select_indices(self, indices: Tensor) -> None:
        self._hold(self.keys[indices], self.values[indices])

    def _hold(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values
        if self.place.stays:
            self.keys, self.values = keys.contiguous(), values.contiguous()


class BlockCache(Cache):
    """transformers' cache for block-wise decoding; see `BlockLayer`. `place` says where the next pass writes."""

    def __init__(self, layers: int, *, stays: bool = False, width: int | None = None) -> None:
        self.place = Place(stays, width)
        super().__init__(layers=[BlockLayer(self.place) for _ in range(layers)])
