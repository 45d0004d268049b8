"""Keys and values of a whole canvas, of which later passes overwrite only the positions that they run on."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class Place:
    """positions: int64 [q], where the next pass writes, the same for every row."""

    positions: Tensor


class BlockLayer(CacheLayerMixin):
    """One layer's keys (after RoPE) and values, [R, heads, T, head size].

    The first pass runs on all T positions and fills it; each later one writes at `place.positions`. A layer knows the
    place and not its cache: in a cycle of references the tensors would outlive the block until Python looks for cycles.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = key_states, value_states
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        else:
            self.keys.index_copy_(2, self.place.positions, key_states)
            self.values.index_copy_(2, self.place.positions, value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return (self.keys.shape[2] if self.is_initialized else query_length), 0

    def get_seq_length(self) -> int:
        return 0  # callers give position ids; nothing is ever appended

    def get_max_length(self) -> int:
        return self.keys.shape[2] if self.is_initialized else -1

    def batch_select_indices(self, indices: Tensor) -> None:
        self.keys, self.values = self.keys[indices], self.values[indices]


class BlockCache(Cache):
    """transformers' cache for block-wise decoding; see `BlockLayer`. `place` says where the next pass writes."""

    def __init__(self, layers: int) -> None:
        self.place = Place()
        super().__init__(layers=[BlockLayer(self.place) for _ in range(layers)])
