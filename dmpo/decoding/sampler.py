"""What follows the pass of a step: tokens are drawn, noted, and filled with EOS after a row's end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..config.decoding import DecodingOptions
from ..kernels import linear_sample_tokens, linear_sample_tokens_with_entropy, linear_token_logprobs
from ..models.masked_lm import head_weight, unwrap
from ..models.token_ids import one_of
from ..randomness import derive_key, seed_change, uniforms, uniforms_of_change, with_seed_zero
from .canvas import Canvas
from .credit import Credits, Plain


class Sampler:
    """Draws tokens for the masks of a canvas of B rows, and keeps what `generate` returns about them.

    steps int64 [B], log_probs float32 [B, G], order int32 [B, G]: as in `Generation`, written in place.
    """

    def __init__(
        self, canvas: Canvas, options: DecodingOptions, row_ids: Tensor, eos_ids: Sequence[int], *, fixed: bool
    ) -> None:
        """eos_ids: the tokens that end a row; with early_stop, early.

        fixed: the seeds are tensors on the device, so that the compiled code of a step serves every seed. The draws are
        the same.
        """
        self.canvas, self.options, self.row_ids = canvas, options, row_ids
        self.eos_ids = tuple(eos_ids) if options.early_stop else ()
        self._ranked_last = tuple(eos_ids) if options.confidence_eos_eot_inf else ()
        self._forbidden = (canvas.mask_id, *(eos_ids[:1] if options.logits_eos_inf else ()))
        self._sees_prompt = unwrap(canvas.model).block_size is not None  # a window may hold tokens of the prompt
        self.weight, self.bias = head_weight(canvas.model)
        batch, device = len(canvas.tokens), canvas.tokens.device
        self.steps = torch.zeros(batch, dtype=torch.int64, device=device)
        self.log_probs = torch.zeros(batch, options.gen_length, device=device)
        self.order = torch.full((batch, options.gen_length), -1, dtype=torch.int32, device=device)
        names = "draw", "remask", "credit"
        self._draw_key, self._rank_key, self._credit_key = (derive_key(options.seed, name) for name in names)
        self._credits: Credits | None = None
        if options.decoder == "credit":
            rates = options.credit_alpha, options.credit_gamma, options.credit_beta
            self._credits = Credits(batch, options.gen_length, *rates, device)
        self.changes: tuple[Tensor, Tensor] | None = None
        if fixed:
            self.changes = seed_change(self._draw_key, device), seed_change(self._rank_key, device)

    def draw(
        self, hidden: Tensor, positions: Tensor | None, index: Tensor, span: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a token at each of `positions` of the flattened window (None: at all of them).

        hidden [R, B, H]; index int64 [R], the rows; span int64 [R, B], the window's positions on the canvas.
        Returns token int64, probability float32 and rank float32, [R, B] each; 0 where nothing was drawn. The rank is
        the probability, a random number, or for decoder "entropy" the entropy of the position with a minus, of the
        untempered distribution in nats, or for decoder "credit" the credited probability; -inf for an EOS that is
        ranked last.
        """
        options, length = self.options, self.options.gen_length
        position = span - self.canvas.prompt_length  # [R, B], in the completion
        # Unique for (row, its step, position): a row has at most as many steps as tokens.
        counter = self.row_ids[index] * length + self.steps[index]
        draws = (counter.unsqueeze(1) * length + position).flatten()
        rows = hidden.flatten(0, 1)
        if positions is not None:
            rows, draws = rows[positions], draws[positions]
        draw: Callable[..., tuple[Tensor, ...]] = linear_sample_tokens
        if options.decoder == "entropy":
            draw = linear_sample_tokens_with_entropy
        drawn = draw(
            rows.to(self.weight.dtype),
            self.weight,
            options.temperature,
            seed=self._draw_key if self.changes is None else 0,
            row_ids=draws if self.changes is None else with_seed_zero(draws, self.changes[0]),
            forbid=self._forbidden,
            bias=self.bias,
        )
        if self._credits is not None:
            drawn = self._credited(self._credits, rows.to(self.weight.dtype), drawn, draws, positions, index, position)
        if positions is not None:
            drawn = tuple(values.new_zeros(span.numel()).scatter(0, positions, values) for values in drawn)
        candidates, confidence, *other = (values.view(span.shape) for values in drawn)
        ranking = confidence
        if other:
            ranking = other[0] if self._credits is not None else -other[0]
        if options.ranks_at_random:
            if self.changes is None:
                ranked = position.clamp(min=0) if self._sees_prompt else position
                ranking = uniforms(self._rank_key, counter, length).gather(1, ranked)
            else:
                ranking = uniforms_of_change(self.changes[1], counter, position)
        if self._ranked_last:
            ranking = ranking.masked_fill(one_of(candidates, self._ranked_last), -torch.inf)
        return candidates, confidence, ranking.float()

    def _credited(
        self,
        given: Credits,
        rows: Tensor,
        drawn: tuple[Tensor, ...],
        draws: Tensor,
        positions: Tensor | None,
        index: Tensor,
        position: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The draw with credits: token int64, plain and credited probability float32, [M] each.

        rows [M, H]; drawn: the plain draw; draws int64 [M], its row ids; position int64 [R, B], in the completion.
        """
        temperature = self.options.temperature
        place = index.unsqueeze(1).expand_as(position).flatten(), position.flatten()
        if positions is not None:
            place = place[0][positions], place[1][positions]
        best, tempered = drawn, None
        if temperature:
            best = self._best(rows, self.bias, draws)
            scaled = self.bias if self.bias is None else self.bias / temperature
            at_temperature = best if temperature == 1 else self._best(rows / temperature, scaled, draws)
            tempered = at_temperature[1].log()
        plain = Plain(best[0], best[1].log(), drawn[0], tempered)
        uniform = uniforms(self._credit_key, draws, 1)[:, 0]
        token, log_prob, credited = given.draw(plain, rows, self.weight, self.bias, place, temperature, uniform)
        return token, log_prob.exp(), credited

    def _best(self, rows: Tensor, bias: Tensor | None, draws: Tensor) -> tuple[Tensor, Tensor]:
        """The most probable token of each row and its probability."""
        return linear_sample_tokens(rows, self.weight, 0.0, seed=0, row_ids=draws, forbid=self._forbidden, bias=bias)

    def verify(self, hidden: Tensor, window: Tensor, positions: Tensor) -> Tensor:
        """The shadow's probability of the tokens at `positions` in the flattened window, +inf elsewhere; [R, B]."""
        rows = hidden.flatten(0, 1)[positions].to(self.weight.dtype)
        known = linear_token_logprobs(rows, self.weight, window.flatten()[positions], bias=self.bias).exp()
        unknown = known.new_full((window.numel(),), float("inf"))
        return unknown.scatter(0, positions, known).view(window.shape)

    def record(
        self,
        index: Tensor,
        span: Tensor,
        masked: Tensor,
        window: Tensor,
        confidence: Tensor,
        moving: Tensor | int = 1,
    ) -> None:
        """Write a window [R, B] back, with the log-probability and the step of each new token.

        moving: int64 [R], 1 for a row to which the step belongs and 0 for a row that is only carried.
        """
        # A position of the prompt counts from the completion's end: its books, outside the window, keep their value.
        row, position = index.unsqueeze(1), span - self.canvas.prompt_length
        now_masked = window == self.canvas.mask_id
        new, steps = masked & ~now_masked, self.steps[row].int()
        self.canvas.tokens[row, span] = window
        log_prob = confidence.clamp(min=torch.finfo(torch.float32).tiny).log()
        log_prob = torch.where(new, log_prob, self.log_probs[row, position])
        self.log_probs[row, position] = log_prob.masked_fill(now_masked, 0.0)
        self.order[row, position] = torch.where(new, steps, self.order[row, position]).masked_fill(now_masked, -1)
        self.steps[index] += moving

    def result(self, index: Tensor, unmasked: Tensor, revoked: Tensor | None, revokes: bool) -> Tensor:
        """What the host must know of a step whose counts it does not know: of each row the tokens that were unmasked
        and those that were masked again, and whether the row ended; int32 [3, R]."""
        ends = self.end(index, revokes).int() if self.eos_ids else torch.zeros_like(unmasked)
        return torch.stack([unmasked, torch.zeros_like(unmasked) if revoked is None else revoked, ends])

    def end(self, index: Tensor, revokes: bool) -> Tensor:
        """Fill a row with EOS after its first EOS, if no mask precedes that; whether a row has such an EOS, bool [R].

        Each of several EOS ids ends a row, and the first id fills it. If tokens can become masks again (`revokes`), a
        row ends only when the block of the EOS has no mask.
        """
        completion = self.canvas.tokens[index, self.canvas.prompt_length :]
        masked = completion == self.canvas.mask_id
        settled = masked.cumsum(1) == 0
        if revokes:
            settled = settled.view(len(index), -1, self.options.block_length).all(-1, keepdim=True)
            settled = settled.expand(-1, -1, self.options.block_length).flatten(1)
        ended = (one_of(completion, self.eos_ids) & settled).cumsum(1) > 0
        after = ended.cumsum(1) > 1
        self.canvas.tokens[index, self.canvas.prompt_length :] = completion.masked_fill(after, self.eos_ids[0])
        self.log_probs[index] = self.log_probs[index].masked_fill(after, 0.0)
        self.order[index] = self.order[index].masked_fill(after, -1)
        return ended.any(1)
