"""The block loop that every decoder shares: model → candidate rows → head and draw → unmask."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..config.decoding import DecodingOptions
from ..kernels import linear_sample_tokens, linear_token_logprobs
from ..models.masked_lm import head_weight, one_of
from ..randomness import derive_key, uniforms
from .canvas import Canvas
from .factory import make_pass, make_policy
from .policies import Row, Step


class BlockLoop:
    """State of one `generate`. The host has the block and the step of each row, the device its tokens."""

    def __init__(self, canvas: Canvas, options: DecodingOptions, row_ids: Tensor, eos_ids: Sequence[int]) -> None:
        """eos_ids: the tokens that end a row early; empty without early_stop."""
        self.canvas, self.options, self.row_ids, self.eos_ids = canvas, options, row_ids, eos_ids
        self.policy, self.model_pass = make_policy(options), make_pass(options, canvas)
        self.weight, self.bias = head_weight(canvas.model)
        batch, device = len(canvas.tokens), canvas.tokens.device
        self.waiting = [Row(index, options.block_length) for index in range(batch)]
        self.steps = torch.zeros(batch, dtype=torch.int64, device=device)  # each row's own
        self.unmasked = torch.zeros(batch, dtype=torch.int32, device=device)  # by each row's last step
        self.log_probs = torch.zeros(batch, options.gen_length, device=device)
        self.order = torch.full((batch, options.gen_length), -1, dtype=torch.int32, device=device)
        self._placed: list[tuple[int, int]] = []

    def run(self) -> None:
        while self.waiting:
            group = self.waiting
            if not self.model_pass.own_pace:
                block = min(row.block for row in group)
                group = [row for row in group if row.block == block]
            ended = self._step(group)
            self.waiting = [row for row in self.waiting if row.block < self.options.blocks and row.index not in ended]

    def _step(self, group: list[Row]) -> set[int]:
        """One model call for these rows; returns the indices of rows that ended with an EOS."""
        canvas, options = self.canvas, self.options
        index, start = self._place(group)
        first = canvas.prompt_length + group[0].block * options.block_length if group[0].step == 0 else None
        span = start.unsqueeze(1) + torch.arange(options.block_length, device=start.device)  # [R, B], on the canvas
        hidden, shadow_hidden = self.model_pass(index, start, first)

        window = canvas.tokens[index.unsqueeze(1), span]
        masked = window == canvas.mask_id
        masks = sum(row.left for row in group)  # known on the host, so no kernel's shape waits for the device
        positions = masked.flatten().int().argsort(descending=True, stable=True)  # masked positions first, in order
        candidates, confidence, ranking = self._draw(hidden, positions[:masks], index, span)
        shadow = None
        if shadow_hidden is not None:
            shadow = self._verify(shadow_hidden, window, positions[masks:])
        step = Step(group, window, candidates, ranking, shadow, self.unmasked[index], canvas.mask_id)
        unmasked, revoked = self.policy(step)
        self.unmasked[index] = unmasked
        self._record(index, span, masked, window, confidence)
        return self._advance(group, index, unmasked, revoked)

    def _place(self, group: list[Row]) -> tuple[Tensor, Tensor]:
        """Batch index and first canvas position of each row's block, int64 [R] each; rebuilt when a row moves."""
        placed = [(row.index, row.block) for row in group]
        if placed != self._placed:
            self._placed = placed
            device = self.row_ids.device
            # Pinned, so that the copy does not wait for the device.
            table = torch.tensor(placed, pin_memory=device.type == "cuda").to(device, non_blocking=True)
            self._index = table[:, 0].contiguous()
            self._start = self.canvas.prompt_length + table[:, 1] * self.options.block_length
        return self._index, self._start

    def _draw(self, hidden: Tensor, positions: Tensor, index: Tensor, span: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a token at each of `positions` in the flattened window; token, probability and rank by [R, B]."""
        options, length = self.options, self.options.gen_length
        position = span - self.canvas.prompt_length  # [R, B], in the completion
        # Unique for (row, its step, position): a row has at most as many steps as tokens.
        counter = self.row_ids[index] * length + self.steps[index]
        draws = counter.unsqueeze(1) * length + position
        ids, confidence = linear_sample_tokens(
            hidden.flatten(0, 1)[positions].to(self.weight.dtype),
            self.weight,
            options.temperature,
            seed=derive_key(options.seed, "draw"),
            row_ids=draws.flatten()[positions],
            forbid=(self.canvas.mask_id,),
            bias=self.bias,
        )
        candidates = ids.new_zeros(span.numel()).scatter(0, positions, ids).view(span.shape)
        confidence = confidence.new_zeros(span.numel()).scatter(0, positions, confidence).view(span.shape)
        if not options.ranks_at_random:
            return candidates, confidence, confidence
        ranking = uniforms(derive_key(options.seed, "remask"), counter, length).gather(1, position).float()
        return candidates, confidence, ranking

    def _verify(self, hidden: Tensor, window: Tensor, positions: Tensor) -> Tensor:
        """The shadow's probability of the tokens at `positions` in the flattened window, +inf elsewhere; [R, B]."""
        rows = hidden.flatten(0, 1)[positions].to(self.weight.dtype)
        known = linear_token_logprobs(rows, self.weight, window.flatten()[positions], bias=self.bias).exp()
        unknown = known.new_full((window.numel(),), float("inf"))
        return unknown.scatter(0, positions, known).view(window.shape)

    def _record(self, index: Tensor, span: Tensor, masked: Tensor, window: Tensor, confidence: Tensor) -> None:
        """Write a block back, with the log-probability and the step of each new token."""
        row, position = index.unsqueeze(1), span - self.canvas.prompt_length
        now_masked = window == self.canvas.mask_id
        new, steps = masked & ~now_masked, self.steps[row].int()
        self.canvas.tokens[row, span] = window
        log_prob = confidence.clamp(min=torch.finfo(torch.float32).tiny).log()
        log_prob = torch.where(new, log_prob, self.log_probs[row, position])
        self.log_probs[row, position] = log_prob.masked_fill(now_masked, 0.0)
        self.order[row, position] = torch.where(new, steps, self.order[row, position]).masked_fill(now_masked, -1)
        self.steps[index] += 1

    def _advance(self, group: list[Row], index: Tensor, unmasked: Tensor, revoked: Tensor | None) -> set[int]:
        """Move each row on to its present block and step: by the schedule, or after one read from the device."""
        moved = [count for row in group if (count := self.policy.count(row)) is not None]
        if moved:
            back = [0] * len(group)
            block_done = all(row.left == count for row, count in zip(group, moved, strict=True))
            ended = self._end(index).tolist() if block_done and self.eos_ids else back
        else:
            ends = self._end(index).int() if self.eos_ids else torch.zeros_like(unmasked)
            looked = torch.stack([unmasked, torch.zeros_like(unmasked) if revoked is None else revoked, ends])
            moved, back, ended = looked.tolist()
        for row, new, old in zip(group, moved, back, strict=True):
            row.left += old - new
            row.step += 1
            if row.left == 0:
                row.block, row.step, row.left = row.block + 1, 0, self.options.block_length
        return {row.index for row, end in zip(group, ended, strict=True) if end}

    def _end(self, index: Tensor) -> Tensor:
        """Fill a row with EOS after its first EOS, if no mask precedes that; whether a row has such an EOS, bool [R].

        Each of several EOS ids ends a row, and the first id fills it. If tokens can become masks again, a row ends only
        when the block of the EOS has no mask.
        """
        completion = self.canvas.tokens[index, self.canvas.prompt_length :]
        masked = completion == self.canvas.mask_id
        settled = masked.cumsum(1) == 0
        if self.policy.revokes:
            settled = settled.view(len(index), -1, self.options.block_length).all(-1, keepdim=True)
            settled = settled.expand(-1, -1, self.options.block_length).flatten(1)
        ended = (one_of(completion, self.eos_ids) & settled).cumsum(1) > 0
        after = ended.cumsum(1) > 1
        self.canvas.tokens[index, self.canvas.prompt_length :] = completion.masked_fill(after, self.eos_ids[0])
        self.log_probs[index] = self.log_probs[index].masked_fill(after, 0.0)
        self.order[index] = self.order[index].masked_fill(after, -1)
        return ended.any(1)
