"""dual_cache's step on a block beside kept keys and values, with fixed shapes and places in memory: one CUDA graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..config.decoding import DecodingOptions
from .cache import BlockCache
from .canvas import Canvas
from .policies import Policy, Row, Step
from .sampler import Sampler


class CachedStep:
    """A step of all B rows on one block, after the first step of that block. The host gives it nothing and it reads
    nothing on the host: every call runs the same operators on the same memory.

    The head and the draw run on all positions of the block. What they find at positions without a mask is not used, so
    rows without a mask in the block are carried unchanged: rows that have ended, and rows that have finished the block.
    """

    def __init__(
        self, canvas: Canvas, cache: BlockCache, sampler: Sampler, policy: Policy, options: DecodingOptions
    ) -> None:
        """cache: keys and values of all rows; `place.stays`. sampler: `fixed`."""
        self.canvas, self.cache, self.sampler, self.policy, self.options = canvas, cache, sampler, policy, options
        batch, device = len(canvas.tokens), canvas.tokens.device
        self.everyone = torch.arange(batch, device=device)
        self.no_counts = torch.zeros(batch, dtype=torch.int32, device=device)
        self.number = torch.ones(1, dtype=torch.int64, device=device)  # of the step within its block
        self.positions = torch.zeros(options.block_length + canvas.shift, dtype=torch.int64, device=device)
        self.counts = _counts(policy, options.block_length, device)
        layers: Any = cache.layers
        stored = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
        # Inductor neither checks nor copies an input that keeps its place. Without a guard on the address, the tensors
        # of another call need no new compilation.
        for tensor in (*self.written(), *self._read(), *stored):
            torch._dynamo.mark_static_address(tensor, guard=False)

    def begin_block(self, first: int) -> None:
        """The next steps are the second, the third, ... of the block at canvas position `first`."""
        # Each position with the neighbour that predicts it; position 0 predicts itself.
        span = torch.arange(first - self.canvas.shift, first + self.options.block_length, device=self.positions.device)
        self.positions.copy_(span.clamp(min=0))
        self.number.fill_(1)
        self.cache.place.positions = self.positions

    def __call__(self) -> Tensor | None:
        """The result of the step, int32 [3, B] as of `Sampler.result`; None where the schedule knows it."""
        canvas, sampler, index = self.canvas, self.sampler, self.everyone
        inputs = canvas.inputs(index).index_select(1, self.positions)
        hidden = canvas.call(inputs, canvas.doubled(index), self.positions, cache=self.cache)
        block = self.positions[canvas.shift :]
        span = block.expand(len(index), -1)
        window = canvas.tokens.index_select(1, block)
        masked = window == canvas.mask_id
        candidates, confidence, ranking = sampler.draw(canvas.guided(hidden[:, canvas.shift :]), None, index, span)
        count = None if self.counts is None else self.counts.index_select(0, self.number).repeat(len(index))
        step = Step([], window, candidates, ranking, None, self.no_counts, canvas.mask_id, count)
        unmasked, revoked = self.policy(step)
        sampler.record(index, span, masked, window, confidence, masked.any(1).long())
        self.number += 1
        return sampler.result(index, unmasked, revoked, self.policy.revokes) if count is None else None

    def written(self) -> tuple[Tensor, ...]:
        """What a step writes, besides keys and values, which the same step writes alike if it is repeated."""
        sampler = self.sampler
        return self.canvas.tokens, sampler.steps, sampler.log_probs, sampler.order, self.number

    def _read(self) -> list[Tensor]:
        canvas, sampler = self.canvas, self.sampler
        optional = (canvas.attended, canvas.position_ids, self.counts, *(sampler.changes or ()))
        fixed = (self.everyone, self.no_counts, self.positions, sampler.row_ids)
        return [*fixed, *(tensor for tensor in optional if tensor is not None)]


def _counts(policy: Policy, block_length: int, device: torch.device) -> Tensor | None:
    """How many tokens each step of a block unmasks, int32 [S]; None: only a step knows it."""
    counts: list[int] = []
    while sum(counts) < block_length:
        count = policy.count(Row(0, block_length - sum(counts), step=len(counts)))
        if count is None:
            return None
        counts.append(count)
    # Pinned, so that the copy does not wait for the device.
    table = torch.tensor(counts, dtype=torch.int32, pin_memory=device.type == "cuda")
    return table.to(device, non_blocking=True)
