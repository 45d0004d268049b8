"""The published decoders of masked diffusion models, written plainly: the baseline of measured/decoders.py.

Every step computes the logits of all positions on which it runs, then float64 softmax, and Gumbel noise if T > 0, over
the whole vocabulary at each of them. A Python loop over rows picks the tokens. It has no optimisation. The rules,
decoder by decoder:

- topk (LLaDA) unmasks a fixed count a step; parallel (Fast-dLLM) also by threshold or factor, until no mask is left;
- prefix_cache keeps keys and values before the block, dual_cache also those behind it, from the block's first step on;
- wino, one row at a time, checks the block with a shadow copy of it behind the sequence, and masks tokens again.

As published, the mask token may be drawn (topk leaves it in the completion, the others draw again, perhaps without
end), and a row that has finished stays in the batch. Unlike some published copies, `factor` works on a batch and leaves
the last candidate masked if only that one falls short, and `parallel` applies guidance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

DECODERS = ("topk", "parallel", "prefix_cache", "dual_cache", "wino")


@torch.no_grad()
def published_generate(
    model: Any,
    prompt_ids: Tensor,
    *,
    decoder: str,
    gen_length: int,
    block_length: int,
    steps: int,
    temperature: float = 0.0,
    threshold: float | None = None,
    factor: float | None = None,
    cfg_scale: float = 0.0,
    wino_threshold: float = 0.6,
    wino_threshold_back: float = 0.9,
    mask_id: int,
    seed: int = 0,
) -> tuple[Tensor, int]:
    """Sequences int64 [B, P + gen_length] and model calls; wino counts the calls of every row.

    Args: as `dmpo.generate`; prompt_ids int64 [B, P], all of one length. Guidance doubles the batch and is one call;
    the caches and wino have no guidance. Raises ValueError for an unknown decoder, and for guidance with these.
    """
    if decoder not in DECODERS:
        raise ValueError(f"unknown decoder {decoder!r}, choose one of {', '.join(DECODERS)}")
    if cfg_scale and decoder not in ("topk", "parallel"):
        raise ValueError(f"cfg_scale must be 0 with {decoder}, got {cfg_scale}")
    batch, prompt_length = prompt_ids.shape
    rng = torch.Generator(prompt_ids.device).manual_seed(seed)
    rule = Rule(threshold, factor, wino_threshold, wino_threshold_back)
    run = _Run(model, decoder, prompt_length, temperature, rule, cfg_scale, mask_id, rng)
    x = torch.cat([prompt_ids, prompt_ids.new_full((batch, gen_length), mask_id)], 1)
    starts = range(prompt_length, x.shape[1], block_length)
    blocks = [slice(start, start + block_length) for start in starts]
    if decoder == "wino":  # the split rows are views: x fills
        return x, sum(_wino_block(run, row, block) for row in x.split(1) for block in blocks)
    return x, sum(_block(run, x, block, steps // len(blocks)) for block in blocks)


@dataclass(frozen=True)
class Rule:
    """When a candidate is unmasked, and with wino when a token is masked again."""

    threshold: float | None
    factor: float | None
    accept_above: float
    keep_from: float


@dataclass(frozen=True)
class _Run:
    model: Any
    decoder: str
    prompt_length: int
    temperature: float
    rule: Rule
    cfg_scale: float
    mask_id: int
    rng: torch.Generator

    def logits(self, x: Tensor) -> Tensor:
        """Logits [B, P+L, V] of all positions, guided by the same sequences with their prompts masked out."""
        if not self.cfg_scale:
            return self.model(x).logits
        without = x.clone()
        without[:, : self.prompt_length] = self.mask_id
        conditional, unguided = self.model(torch.cat([x, without])).logits.chunk(2)
        return unguided + (self.cfg_scale + 1) * (conditional - unguided)


def draw(logits: Tensor, temperature: float, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Drawn ids and their untempered probabilities (float64), both [B, N], of logits [B, N, V]."""
    noisy = logits
    if temperature > 0:
        wide = logits.to(torch.float64)
        noise = torch.rand(wide.shape, dtype=torch.float64, device=wide.device, generator=rng)
        noisy = wide.exp() / (-noise.log()) ** temperature  # Gumbel's trick, exponentiated
    drawn = noisy.argmax(-1)
    return drawn, _probability(logits, drawn)


def _probability(logits: Tensor, ids: Tensor) -> Tensor:
    return F.softmax(logits.to(torch.float64), -1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def _block(run: _Run, x: Tensor, block: slice, steps: int) -> int:
    """Fill one block of every row of x [B, P+L] in place; model calls."""
    counts = _schedule(x[:, block] == run.mask_id, steps)  # [B, S]
    cached = run.decoder in ("prefix_cache", "dual_cache")
    cache: Any = None
    step = 0
    while bool((x[:, block] == run.mask_id).any()) and (step < steps or run.decoder != "topk"):
        where = slice(0, x.shape[1])  # the positions this call runs on
        if not cached:
            logits = run.logits(x)
        elif cache is None:
            full = DynamicCache()
            logits = run.model(x, past_key_values=full, use_cache=True).logits
            cache = (_PrefixCache if run.decoder == "prefix_cache" else _DualCache)(full, block.start)
        else:
            where = slice(block.start, x.shape[1] if run.decoder == "prefix_cache" else block.stop)
            positions = torch.arange(where.start, where.stop, device=x.device).unsqueeze(0)
            logits = run.model(x[:, where], past_key_values=cache, position_ids=positions, use_cache=True).logits
        candidates = x[:, where] == run.mask_id
        candidates[:, block.stop - where.start :] = False
        drawn, confidence = draw(logits, run.temperature, run.rng)
        chosen = choose(confidence, candidates, counts[:, min(step, steps - 1)], run.rule)
        x[:, where] = torch.where(chosen, drawn, x[:, where])
        step += 1
    return step


def _schedule(masked: Tensor, steps: int) -> Tensor:
    """How many tokens each row unmasks at each step, int64 [B, S]: equal shares, the remainder in the first steps."""
    total = masked.sum(1, keepdim=True)
    return total // steps + (torch.arange(steps, device=masked.device) < total % steps)


def choose(confidence: Tensor, candidates: Tensor, counts: Tensor, rule: Rule) -> Tensor:
    """Positions to unmask, bool [B, N], row by row: the rule of `threshold`, of `factor`, or `counts` of them."""
    confidence = torch.where(candidates, confidence, -torch.inf)
    chosen = torch.zeros_like(candidates)
    for row in range(len(chosen)):
        left = int(candidates[row].sum())
        if left == 0:
            continue
        values, order = confidence[row].topk(left)
        if rule.threshold is not None:
            count = max(1, int((values >= rule.threshold).sum()))
        elif rule.factor is not None:
            count = 1
            while count < left and values[count] >= 1 - rule.factor / (count + 2):
                count += 1
        else:
            count = min(left, int(counts[row]))
        chosen[row, order[:count]] = True
    return chosen


class _KeptCache(DynamicCache):
    """Keys and values of a block's full forward; `update` writes the keys and values of a later call, from `start`."""

    def __init__(self, full: DynamicCache, start: int) -> None:
        super().__init__()
        layers: list[Any] = full.layers
        self.kept, self.start = [(layer.keys, layer.values) for layer in layers], start  # [B, heads, P+L, D] each


class _PrefixCache(_KeptCache):
    """A call on all positions from the block on attends to the stored keys before it."""

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        keys, values = (x[..., : self.start, :] for x in self.kept[layer_idx])
        return torch.cat([keys, key_states], -2), torch.cat([values, value_states], -2)


class _DualCache(_KeptCache):
    """A call on the block alone attends to the stored keys before and after it."""

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        keys, values = self.kept[layer_idx]
        block = slice(self.start, self.start + key_states.shape[-2])
        keys[..., block, :], values[..., block, :] = key_states, value_states
        return keys, values


def _wino_block(run: _Run, x: Tensor, place: slice) -> int:
    """Fill one block of x [1, P+L] in place; model calls."""
    total, length = x.shape[1], place.stop - place.start
    block = x[0, place]  # a view
    shadow = torch.full_like(x[:, :length], run.mask_id)
    positions = torch.cat([torch.arange(total), torch.arange(place.start, place.stop)]).to(x.device).unsqueeze(0)
    sees = torch.ones(total + length, total + length, dtype=torch.bool, device=x.device)
    sees[:total, total:] = False
    sees[total:, place] = ~torch.eye(length, dtype=torch.bool, device=x.device)
    accepted_before, forwards = 30, 0
    while bool((block == run.mask_id).any()):
        masked = block == run.mask_id
        most = min(max(int(masked.sum() * 0.7), 5), 20)
        logits = run.model(torch.cat([x, shadow], 1), attention_mask=sees[None, None], position_ids=positions).logits
        forwards += 1
        drawn, confidence = draw(logits, run.temperature, run.rng)
        probability = _probability(logits[0, total:], block)

        confidence = torch.where(masked, confidence[0, place], -torch.inf)
        accept = confidence > run.rule.accept_above
        if accept.sum() > most:
            accept = torch.zeros_like(accept).index_fill(0, confidence.topk(most).indices, True)
        elif not accept.any():
            accept = torch.zeros_like(accept).index_fill(0, confidence.argmax(), True)
        revoke = torch.zeros_like(accept)
        if accept.sum() > 1:
            probability = torch.where(masked, torch.inf, probability)  # positions unmasked before this step
            revoke = probability < run.rule.keep_from
            if revoke.sum() >= accepted_before:
                worst = probability.topk(accepted_before - 1, largest=False).indices
                revoke = torch.zeros_like(revoke).index_fill(0, worst, True)
        block[accept] = drawn[0, place][accept]
        block[revoke] = run.mask_id
        accepted_before = int(accept.sum())
    return forwards
