"""The block loop that every decoder shares: model → candidate rows → head → draw → unmask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..kernels import remask_, sample_tokens
from ..masked_lm import hidden_states, lm_head, special_ids, unwrap
from ..randomness import derive_key, uniforms
from .policies import DECODERS


@dataclass(frozen=True)
class Generation:
    """sequences: int64 [B, P + gen_length], prompt and completion; forwards: model calls."""

    sequences: Tensor
    forwards: int


@torch.no_grad()
def generate(
    model: nn.Module,
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
    remasking: Literal["low_confidence", "random"] = "low_confidence",
    attention_mask: Tensor | None = None,
    mask_id: int | None = None,
    eos_id: int | None = None,
    early_stop: bool = False,
    seed: int = 0,
    row_ids: Tensor | None = None,
) -> Generation:
    """Fill a completion of masks block by block, the most confident tokens first (algorithm, section 8).

    Only the masked positions of the current block pass through lm_head and the draw; the mask token is never drawn. A
    row's draws depend on (seed, its row id) alone, not on the rows beside it. No dropout is live.

    Args:
        prompt_ids: int64 [B, P].
        decoder: `topk`.
        gen_length: tokens to make, a multiple of block_length.
        steps: model calls in all, a multiple of the number of blocks.
        temperature: of the draw; 0 takes the best token.
        threshold, factor, wino_threshold, wino_threshold_back: of decoders that unmask by confidence; `topk` goes by
            count and refuses them.
        cfg_scale: classifier-free guidance, logits l_u + (1 + s)(l_c − l_u), the prompt masked out in l_u.
        remasking: rank candidates by their untempered probability, or at random.
        attention_mask: bool or int [B, P], 0 for left padding.
        mask_id, eos_id: default to the model's config.
        early_stop: once a row has an EOS with no mask before it, the rest of the row is EOS.
        row_ids: int64 [B], the identity of each row for its random numbers; default 0..B-1.

    Raises:
        ValueError: an argument out of range, named.
        TypeError: prompt_ids is not an integer tensor.
    """
    config_mask_id, config_eos_id = special_ids(model)
    mask_id = config_mask_id if mask_id is None else mask_id
    eos_id = config_eos_id if eos_id is None else eos_id
    _check(prompt_ids, attention_mask, decoder, gen_length, block_length, steps, temperature, remasking, mask_id)
    vocab = unwrap(model).config.vocab_size
    if bool(((prompt_ids < 0) | (prompt_ids >= vocab)).any()):
        raise ValueError(f"prompt_ids must be in [0, {vocab}), got {prompt_ids.min()} to {prompt_ids.max()}")
    given: list[tuple[str, float | None, float | None]] = [
        ("threshold", threshold, None),
        ("factor", factor, None),
        ("wino_threshold", wino_threshold, 0.6),
        ("wino_threshold_back", wino_threshold_back, 0.9),
    ]
    for name, value, unset in given:
        if value != unset:
            raise ValueError(f"{name} must be left at {unset}, got {value}: decoder {decoder!r} unmasks by count")
    if early_stop and eos_id is None:
        raise ValueError("early_stop needs eos_id, and the model's config has none")
    was_training = model.training
    model.eval()

    batch, prompt_length = prompt_ids.shape
    device = prompt_ids.device
    row_ids = torch.arange(batch, device=device) if row_ids is None else row_ids.to(device)
    prompt_mask = torch.ones_like(prompt_ids) if attention_mask is None else attention_mask.to(prompt_ids.dtype)
    tokens = torch.cat([prompt_ids, prompt_ids.new_full((batch, gen_length), mask_id)], 1)
    attention = torch.cat([prompt_mask, prompt_mask.new_ones(batch, gen_length)], 1)
    blocks = gen_length // block_length
    policy = DECODERS[decoder](block_length, steps // blocks)
    forwards = 0

    for block in range(blocks):
        start = prompt_length + block * block_length
        current = tokens[:, start : start + block_length]  # a view: unmasking writes into tokens
        for step in range(policy.steps_per_block):
            # Counts are known on the host, so the candidates have a known shape: masked positions first, in order.
            left = policy.left(step)
            positions = (current != mask_id).int().argsort(dim=1, stable=True)[:, :left]  # [B, left]
            logits = _candidate_logits(model, tokens, attention, start + positions, prompt_length, cfg_scale, mask_id)
            forwards += 1
            absolute = start - prompt_length + positions  # within the completion
            ids, confidence = sample_tokens(
                logits.flatten(0, 1),
                temperature,
                seed=derive_key(seed, "draw", block, step),
                row_ids=(row_ids.unsqueeze(1) * gen_length + absolute).flatten(),
                forbid=(mask_id,),
            )
            if remasking == "random":
                draws = uniforms(derive_key(seed, "remask", block, step), row_ids, gen_length)
                confidence = draws.gather(1, absolute).flatten().float()
            candidates = current.scatter(1, positions, ids.view(batch, left))
            scores = confidence.new_zeros(current.shape).scatter(1, positions, confidence.view(batch, left))
            remask_(current, candidates, scores, mask_id=mask_id, num_transfer=policy.count(step))
        if early_stop and eos_id is not None and _finish(tokens[:, prompt_length:], mask_id, eos_id):
            break
    model.train(was_training)
    return Generation(tokens, forwards)


def _candidate_logits(
    model: nn.Module,
    tokens: Tensor,
    attention: Tensor,
    positions: Tensor,
    prompt_length: int,
    cfg_scale: float,
    mask_id: int,
) -> Tensor:
    """Logits of the candidate positions, guided where asked; positions int64 [B, K] -> [B, K, V]."""
    if cfg_scale:
        unconditional = tokens.clone()
        unconditional[:, :prompt_length] = mask_id
        tokens, attention = torch.cat([tokens, unconditional]), attention.repeat(2, 1)
        positions = positions.repeat(2, 1)
    hidden = hidden_states(model, tokens, attention)  # [B, P+L, H]
    rows = hidden.gather(1, positions.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
    logits = lm_head(model, rows)
    if cfg_scale:
        conditional, unguided = logits.chunk(2)
        logits = unguided + (1 + cfg_scale) * (conditional - unguided)
    return logits


def _finish(completion: Tensor, mask_id: int, eos_id: int) -> bool:
    """Fill what follows an EOS that has no mask before it with EOS, in place; whether no mask is left (a host sync)."""
    before_mask = (completion == mask_id).cumsum(1) == 0
    ended = ((completion == eos_id) & before_mask).cumsum(1) > 0
    completion.masked_fill_(ended, eos_id)
    return not bool((completion == mask_id).any())


def _check(
    prompt_ids: Tensor,
    attention_mask: Tensor | None,
    decoder: str,
    gen_length: int,
    block_length: int,
    steps: int,
    temperature: float,
    remasking: str,
    mask_id: int | None,
) -> None:
    if prompt_ids.dtype != torch.int64:
        raise TypeError(f"prompt_ids must be int64, got {prompt_ids.dtype}")
    if prompt_ids.dim() != 2 or prompt_ids.shape[0] == 0:
        raise ValueError(f"prompt_ids must be [B, P] with B ≥ 1, got shape {tuple(prompt_ids.shape)}")
    if attention_mask is not None and attention_mask.shape != prompt_ids.shape:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, prompt_ids {tuple(prompt_ids.shape)}"
        )
    if decoder not in DECODERS:
        raise ValueError(f"unknown decoder {decoder!r}, choose one of {', '.join(DECODERS)}")
    if block_length < 1 or gen_length < 1 or gen_length % block_length:
        raise ValueError(f"gen_length must be a positive multiple of block_length, got {gen_length} and {block_length}")
    blocks = gen_length // block_length
    if steps < 1 or steps % blocks:
        raise ValueError(f"steps must be a positive multiple of the {blocks} blocks, got {steps}")
    if steps // blocks > block_length:
        raise ValueError(f"steps per block must be at most block_length {block_length}, got {steps // blocks}")
    if not temperature >= 0:
        raise ValueError(f"temperature must be ≥ 0, got {temperature}")
    if remasking not in ("low_confidence", "random"):
        raise ValueError(f"unknown remasking {remasking!r}, choose low_confidence or random")
    if mask_id is None:
        raise ValueError("mask_id is None and the model's config has no mask_token_id")
    if bool((prompt_ids == mask_id).any()):
        raise ValueError(f"prompt_ids contains the mask token {mask_id}")
