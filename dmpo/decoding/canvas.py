"""The canvas that the model sees: prompt and completion, padding, positions, guidance; and its three kinds of pass."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ..masked_lm import hidden_states, unwrap
from .cache import BlockCache

logger = logging.getLogger("dmpo")


@dataclass
class Canvas:
    """Prompts and completions of B rows, T = P + G positions.

    tokens int64 [B, T]; attended bool [B, T], None where nothing is padded; position_ids int64 [B, T], None: from 0.
    forwards and row_forwards count model calls and the rows that went through them.
    """

    model: nn.Module
    tokens: Tensor
    attended: Tensor | None
    position_ids: Tensor | None
    prompt_length: int
    cfg_scale: float
    mask_id: int
    forwards: int = 0
    row_forwards: int = 0

    @property
    def shift(self) -> int:
        """1 where a position is predicted at its left neighbour (Dream), else 0."""
        return unwrap(self.model).prediction_shift

    def inputs(self, index: Tensor) -> Tensor:
        """Tokens of chosen rows; with guidance followed by the same rows without their prompt. [R or 2R, T]."""
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
        """Row indices of `inputs`, for what is kept per row."""
        return index.repeat(2) if self.cfg_scale else index

    def run(
        self,
        inputs: Tensor,
        index: Tensor,
        start: int = 0,
        mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: BlockCache | None = None,
        call: Callable[..., Tensor] = hidden_states,
    ) -> Tensor:
        """One model call on `inputs` [R or 2R, q], canvas positions from `start` on; hidden states [R or 2R, q, H]."""
        self.forwards += 1
        self.row_forwards += len(inputs)
        rows, width = self.doubled(index), inputs.shape[1]
        if position_ids is None:
            if self.position_ids is not None:
                position_ids = self.position_ids[rows, start : start + width]
            elif cache is not None:
                position_ids = torch.arange(start, start + width, device=inputs.device).unsqueeze(0)
        if mask is None and self.attended is not None:
            mask = self.attended[rows]
            if unwrap(self.model).config._attn_implementation in ("sdpa", "eager"):
                # Ready-made, so that transformers does not look inside it, which would wait for the device.
                mask = mask[:, None, None, :].expand(-1, 1, width, -1)
        kwargs: dict[str, Any] = {} if cache is None else {"past_key_values": cache, "use_cache": True}
        return call(self.model, inputs, mask, position_ids, **kwargs)


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
    """A block's first step runs on the whole canvas and keeps keys and values; later ones run on the block and, without
    `suffix_cached`, on all that follows it. All rows are in the same block; those that are done with it leave.

    compiled: later steps are compiled, on a GPU for CUDA graphs; rows then stay until all are done, for one shape.
    """

    own_pace = False

    def __init__(self, canvas: Canvas, block_length: int, suffix_cached: bool, compiled: bool = False) -> None:
        self.canvas, self.block_length, self.suffix_cached = canvas, block_length, suffix_cached
        self.call = _CompiledCall(canvas.tokens.device) if compiled else hidden_states
        self.compiled = compiled
        self.everyone = torch.arange(len(canvas.tokens), device=canvas.tokens.device)
        self.cache: BlockCache | None = None  # of a block; where steps are compiled, of all blocks
        self.cached = self.everyone  # the rows whose keys and values are kept, ascending

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
        kept = torch.searchsorted(self.cached, index)
        self.cache.batch_select_indices(torch.cat([kept, kept + len(self.cached)]) if self.canvas.cfg_scale else kept)
        self.cached = index


class ShadowPass:
    """WINO's pass: the canvas and, appended, a shadow of the block that sees everything but the token it verifies.

    The shadow's inputs are mask tokens at the block's positions. A model that predicts at the left neighbour has its
    shadow one position further left, with one more token at the end that nobody attends to.
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
    """`hidden_states`, compiled; where that fails, a log line says why and the plain one runs to the end."""

    def __init__(self, device: torch.device) -> None:
        self.call: Callable[..., Tensor] | None = _compiled_hidden_states(device.type)
        self.copies = device.type == "cuda"  # a CUDA graph writes its result to the same place every time

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        if self.call is not None:
            try:
                with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):  # else torch stops compiling unsaid
                    hidden = self.call(*args, **kwargs)
                return hidden.clone() if self.copies else hidden
            except _compile_errors() as error:
                # What it may have written into the cache, the plain call writes again.
                self.call = None
                logger.warning("dual_cache runs uncompiled: %s", " ".join(str(error).split())[:200])
        return hidden_states(*args, **kwargs)


@cache
def _compiled_hidden_states(device: str) -> Callable[..., Tensor]:
    options: dict[str, Any] = {"mode": "reduce-overhead"} if device == "cuda" else {}
    compiled: Callable[..., Tensor] = torch.compile(hidden_states, dynamic=False, **options)
    return compiled


def _compile_errors() -> tuple[type[Exception], ...]:
    """What compiling, or running what was compiled, may raise; looked up late, since importing it takes seconds."""
    errors = torch._dynamo.exc
    return (errors.TorchDynamoException, errors.FailOnRecompileLimitHit, RuntimeError)
