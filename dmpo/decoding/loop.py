"""The block loop that every decoder shares: model → candidate rows → head and draw → unmask."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..config.decoding import DecodingOptions
from .canvas import EVERYTHING, Canvas, Extent
from .compiled_step import CompiledStep
from .factory import make_compiled_step, make_pass, make_policy
from .policies import Row, Step
from .sampler import Sampler


class BlockLoop:
    """State of one `generate`. The host has the block and the step of each row, the device its tokens."""

    def __init__(
        self,
        canvas: Canvas,
        options: DecodingOptions,
        row_ids: Tensor,
        eos_ids: Sequence[int],
        ahead: Sequence[int] | None = None,
    ) -> None:
        """eos_ids: the tokens that end a row. ahead: for each row the tokens of its prompt that share a block with the
        completion (`Row.ahead`); None: none.

        Raises:
            ValueError: the policy takes tokens back, and the model is block-causal.
        """
        self.canvas, self.options = canvas, options
        self.policy, self.model_pass = make_policy(options), make_pass(options, canvas)
        if self.policy.revokes and ahead is not None:
            raise ValueError(
                f"decoder {options.decoder!r} takes tokens back, which a block-causal model does not allow: its first "
                "block may hold tokens of the prompt; use a policy with revokes = False"
            )
        self.sampler = Sampler(canvas, options, row_ids, eos_ids, fixed=options.compiled)
        self.compiled: CompiledStep | None = None
        batch, device = len(canvas.tokens), canvas.tokens.device
        self.waiting = [Row(index, 0, ahead=shared) for index, shared in enumerate(ahead or [0] * batch)]
        for row in self.waiting:
            row.left = self._masks(row)
        self.unmasked = torch.zeros(batch, dtype=torch.int32, device=device)  # by each row's last step
        self._placed: list[tuple[int, int]] = []

    def run(self) -> None:
        while self.waiting:
            group = self.waiting
            if not self.model_pass.own_pace:
                block = min(row.block for row in group)
                group = [row for row in group if row.block == block]
            ended = self._step(group)
            self.waiting = [row for row in self.waiting if row.left and row.index not in ended]

    def _step(self, group: list[Row]) -> set[int]:
        """One model call for these rows; returns the indices of rows that ended with an EOS."""
        if self.compiled is not None and group[0].step:
            looked = self.compiled()
            return self._advance(group, looked, [row.index for row in group])
        canvas, options, sampler = self.canvas, self.options, self.sampler
        index, start, extent = self._place(group)
        first = self._start(group[0]) if any(row.step == 0 for row in group) else None
        span = start.unsqueeze(1) + torch.arange(options.block_length, device=start.device)  # [R, B], on the canvas
        hidden, shadow_hidden = self.model_pass(index, start, first, extent)

        window = canvas.tokens[index.unsqueeze(1), span]
        masked = window == canvas.mask_id
        masks = sum(row.left for row in group)  # known on the host, so no kernel's shape waits for the device
        positions = masked.flatten().int().argsort(descending=True, stable=True)  # masked positions first, in order
        candidates, confidence, ranking = sampler.draw(hidden, positions[:masks], index, span)
        shadow = None
        if shadow_hidden is not None:
            shadow = sampler.verify(shadow_hidden, window, positions[masks:])
        step = Step(group, window, candidates, ranking, shadow, self.unmasked[index], canvas.mask_id)
        unmasked, revoked = self.policy(step)
        self.unmasked[index] = unmasked
        sampler.record(index, span, masked, window, confidence)
        if options.compiled and first is not None:
            self._begin_compiled(first)
        looked = None
        if self.policy.count(group[0]) is None:
            looked = sampler.result(index, unmasked, revoked, self.policy.revokes)
        return self._advance(group, looked, range(len(group)))

    def _begin_compiled(self, first: int) -> None:
        """The steps of the block at `first` that follow are compiled ones."""
        if self.compiled is None:
            self.compiled = make_compiled_step(self.options, self.canvas, self.model_pass, self.sampler, self.policy)
        self.compiled.begin_block(first)

    def _masks(self, row: Row) -> int:
        """Masks of the row's block before its first step; 0 after the last block."""
        start = row.block * self.options.block_length - row.ahead  # in the completion
        return max(0, min(start + self.options.block_length, self.options.gen_length) - max(start, 0))

    def _start(self, row: Row) -> int:
        """Canvas position of the block. Of a last block that is cut off, the end is at the end of the canvas."""
        start = self.canvas.prompt_length + row.block * self.options.block_length - row.ahead
        return min(start, self.canvas.tokens.shape[1] - self.options.block_length)

    def _place(self, group: list[Row]) -> tuple[Tensor, Tensor, Extent]:
        """Batch index and first canvas position of each row's block, int64 [R] each, and what the rows see; rebuilt
        when a row moves."""
        placed = [(row.index, self._start(row)) for row in group]
        if placed != self._placed:
            self._placed = placed
            device = self.unmasked.device
            # Pinned, so that the copy does not wait for the device.
            table = torch.tensor(placed, pin_memory=device.type == "cuda").to(device, non_blocking=True)
            index, start = table[:, 0].contiguous(), table[:, 1].contiguous()
            self._table = index, start, self._extent([begin for _, begin in placed], start)
        return self._table

    def _extent(self, starts: list[int], start: Tensor) -> Extent:
        """Each row sees its canvas up to the masks after its block that `suffix` keeps; `starts` is `start` as ints."""
        kept, width = self.options.suffix_masks, self.canvas.tokens.shape[1]
        if kept is None:
            return EVERYTHING
        behind = self.options.block_length + kept  # from the block's first position
        columns = min(max(starts) + behind, width)
        alike = min(starts) + behind >= columns
        return Extent(columns, None if alike else start + behind)

    def _advance(self, group: list[Row], looked: Tensor | None, columns: Sequence[int]) -> set[int]:
        """Move each row on to its present block and step: by the schedule, or after one read from the device.

        looked: int32 [3, N], a row's result (see `Sampler.result`) at its entry of `columns`; None: the schedule knows.
        """
        if looked is None:
            moved = [self.policy.count(row) or 0 for row in group]
            back = ended = [0] * len(group)
            done = [number for number, row in enumerate(group) if row.left == moved[number]]
            if done and self.sampler.eos_ids:
                ended = self._end(self._place(group)[0], done)
        else:
            results = looked.tolist()
            moved, back, ended = ([values[column] for column in columns] for values in results)
        for row, new, old in zip(group, moved, back, strict=True):
            row.left += old - new
            row.step += 1
            if row.left < 0 or (row.left > 0 and row.step >= self.options.block_length):
                raise ValueError(
                    f"decoder {self.options.decoder!r} left {row.left} masks in a block of {self.options.block_length} "
                    f"after {row.step} steps: a policy must fill a block in at most as many steps as it has tokens, "
                    "and `count` must say what a step does"
                )
            if row.left == 0:
                row.block, row.step = row.block + 1, 0
                row.left = self._masks(row)
        return {row.index for row, end in zip(group, ended, strict=True) if end}

    def _end(self, index: Tensor, done: Sequence[int]) -> list[int]:
        """Of each row of `index` whether it ended; only the rows numbered `done` are looked at."""
        if len(done) == len(index):
            return self.sampler.end(index, self.policy.revokes).tolist()
        of_done = self.sampler.end(index[torch.tensor(done, device=index.device)], self.policy.revokes).tolist()
        ended = dict(zip(done, of_done, strict=True))
        return [ended.get(number, 0) for number in range(len(index))]
