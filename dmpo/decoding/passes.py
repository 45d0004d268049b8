"""The passes of a decoding step: the positions on which the model runs, and the keys and values that stay."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..models.masked_lm import hidden_states, unwrap
from .cache import BlockCache
from .canvas import Canvas

log = logging.getLogger("dmpo")


class FullPass:
    """The model runs on the whole canvas at every step; every row goes at its own pace."""

    own_pace = True

    def __init__(self, canvas: Canvas, block_length: int) -> None:
        self.canvas, self.block_length = canvas, block_length

    def __call__(self, index: Tensor, start: Tensor, first: int | None) -> tuple[Tensor, Tensor | None]:
        """Hidden states of the block's positions, and of its shadow if there is one; [R, B, H] each."""
        hidden = self.canvas.run(self.canvas.inputs(index), index)
        return self.canvas.guided(_at(hidden, self.canvas.doubled(start), self.block_length)), None


class CachedPass:
    """A block's first step runs on the whole canvas and stores keys and values. Later steps run on the block and,
    without `suffix_cached`, on all positions after it. All rows are in one block; a row that has finished it leaves.

    compiled: later steps are compiled, on a GPU for CUDA graphs. Rows then stay until all have finished: one shape.
    """

    own_pace = False

    def __init__(self, canvas: Canvas, block_length: int, suffix_cached: bool, compiled: bool = False) -> None:
        self.canvas, self.block_length, self.suffix_cached = canvas, block_length, suffix_cached
        self.call = _CompiledCall(canvas.tokens.device) if compiled else hidden_states
        self.compiled = compiled
        self.everyone = torch.arange(len(canvas.tokens), device=canvas.tokens.device)
        self.cache: BlockCache | None = None  # of a block; where steps are compiled, of all blocks
        self.cached = self.everyone  # the rows whose keys and values are stored, ascending

    def __call__(self, index: Tensor, start: Tensor, first: int | None) -> tuple[Tensor, Tensor | None]:
        """As `FullPass`; `first` is the block's first position at its first step, else None."""
        canvas = self.canvas
        if first is not None:
            self.first = first
            if self.cache is None or not self.compiled:
                layers = unwrap(canvas.model).config.num_hidden_layers
                self.cache = BlockCache(layers, stays=self.compiled)
            self.cache.place.positions = None
            self.cached = self.everyone if self.compiled else index
        elif len(index) < len(self.cached) and not self.compiled:
            self._keep(index)
        inputs = canvas.inputs(self.cached)
        assert self.cache is not None
        if first is not None:
            hidden, begin = canvas.run(inputs, self.cached, cache=self.cache), 0
        else:
            begin = max(0, self.first - canvas.shift)
            stop = self.first + self.block_length if self.suffix_cached else inputs.shape[1]
            self.cache.place.positions = torch.arange(begin, stop, device=inputs.device)
            hidden = canvas.run(inputs[:, begin:stop], self.cached, begin, cache=self.cache, call=self.call)
        offset = self.first - begin
        hidden = canvas.guided(hidden[:, offset : offset + self.block_length])
        return (hidden[index] if self.compiled else hidden), None

    def _keep(self, index: Tensor) -> None:
        """Drop the keys and values of all other rows."""
        assert self.cache is not None
        rows = torch.searchsorted(self.cached, index)
        self.cache.batch_select_indices(torch.cat([rows, rows + len(self.cached)]) if self.canvas.cfg_scale else rows)
        self.cached = index


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

    def __call__(self, index: Tensor, start: Tensor, first: int | None) -> tuple[Tensor, Tensor | None]:
        """As `FullPass`."""
        canvas, width = self.canvas, self.block_length + self.canvas.shift
        inputs, rows, start = canvas.inputs(index), canvas.doubled(index), canvas.doubled(start)
        length, device = inputs.shape[1], inputs.device
        shadow = torch.arange(width, device=device)
        position = torch.arange(length, device=device)
        position_ids = position.expand(len(rows), -1) if canvas.position_ids is None else canvas.position_ids[rows]
        behind = (start.unsqueeze(1) - canvas.shift + shadow).clamp(0, length - 1)
        attends = torch.zeros(len(rows), length + width, length + width, dtype=torch.bool, device=device)
        attends[:, :, :length] = True if canvas.attended is None else canvas.attended[rows].unsqueeze(1)
        verified = (start.unsqueeze(1) + shadow).unsqueeze(-1) == position  # [R, width, T]
        verified[:, self.block_length :] = False
        attends[:, length:, :length] &= ~verified
        attends[:, length:, length : length + self.block_length] = True
        hidden = canvas.run(
            torch.cat([inputs, inputs.new_full((len(rows), width), canvas.mask_id)], 1),
            index,
            mask=attends.unsqueeze(1),
            position_ids=torch.cat([position_ids, position_ids.gather(1, behind)], 1),
        )
        block = _at(hidden, start, self.block_length)
        return canvas.guided(block), canvas.guided(hidden[:, length + canvas.shift :])


def _at(hidden: Tensor, start: Tensor, width: int) -> Tensor:
    """Positions start to start + width - 1 of each row; [R, T, H], [R] -> [R, width, H]."""
    span = start.unsqueeze(1) + torch.arange(width, device=hidden.device)
    return hidden.gather(1, span.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))


class _CompiledCall:
    """`hidden_states`, compiled. If that fails, a log line says why, and all later calls run uncompiled."""

    def __init__(self, device: torch.device) -> None:
        self.call: Callable[..., Tensor] | None = _compiled_hidden_states(device.type)
        self.copies = device.type == "cuda"  # a CUDA graph writes its result to the same address every time

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        if self.call is not None:
            try:
                # Else torch stops compiling without a word.
                with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
                    hidden = self.call(*args, **kwargs)
                return hidden.clone() if self.copies else hidden
            except _compile_errors() as error:
                # The uncompiled call overwrites what the failed call may have written into the cache.
                self.call = None
                log.warning("dual_cache runs uncompiled: %s", " ".join(str(error).split())[:200])
        return hidden_states(*args, **kwargs)


@cache
def _compiled_hidden_states(device: str) -> Callable[..., Tensor]:
    options: dict[str, Any] = {"mode": "reduce-overhead"} if device == "cuda" else {}
    compiled: Callable[..., Tensor] = torch.compile(hidden_states, dynamic=False, **options)
    return compiled


def _compile_errors() -> tuple[type[Exception], ...]:
    """The errors that compiling or running the compiled code may raise; imported late, because that takes seconds."""
    errors = torch._dynamo.exc
    return (errors.TorchDynamoException, errors.FailOnRecompileLimitHit, RuntimeError)
