"""`generate`: what a user asks, checked, and what comes back (algorithm, section 8)."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..decoding_options import WINO_THRESHOLD, WINO_THRESHOLD_BACK, Decoder, DecodingOptions, Remasking
from ..masked_lm import special_ids, unwrap, without_dropout
from ..prompts import padding
from .canvas import Canvas
from .loop import BlockLoop


@dataclass(frozen=True)
class Generation:
    """What `generate` made, and what it took.

    sequences: int64 [B, P + gen_length], prompt and completion.
    forwards: model calls; row_forwards: rows that went through them, with guidance two for each sequence.
    seconds: wall clock, until the last kernel was launched.
    log_probs: float32 [B, gen_length], the model's untempered log-probability (nats) of each token when it was drawn;
        0 where the token was not drawn but follows an EOS.
    order: int32 [B, gen_length], the row's own step at which the token was drawn, -1 where it was not.
    steps: int64 [B], the row's own steps, whatever the rows beside it took; with guidance each is two row-forwards.
    """

    sequences: Tensor
    forwards: int
    row_forwards: int
    seconds: float
    log_probs: Tensor
    order: Tensor
    steps: Tensor

    @property
    def tokens_per_forward(self) -> float:
        """Tokens drawn and kept for each row that went through the model."""
        return float((self.order >= 0).sum()) / self.row_forwards


@torch.no_grad()
def generate(
    model: nn.Module,
    prompt_ids: Tensor,
    *,
    decoder: Decoder,
    gen_length: int,
    block_length: int,
    steps: int,
    temperature: float = 0.0,
    threshold: float | None = None,
    factor: float | None = None,
    cfg_scale: float = 0.0,
    wino_threshold: float | None = None,
    wino_threshold_back: float | None = None,
    remasking: Remasking = "low_confidence",
    attention_mask: Tensor | None = None,
    mask_id: int | None = None,
    eos_id: int | None = None,
    early_stop: bool = False,
    seed: int = 0,
    row_ids: Tensor | None = None,
    compiled: bool = False,
) -> Generation:
    """Fill a completion of masks block by block, the most confident tokens first (algorithm, section 8).

    Only the masked positions of the current block pass through lm_head and the draw; the mask token is never drawn. A
    row's draws depend on (seed, its row id) alone, not on the rows beside it. No dropout is live.

    Decoders:
        topk: `steps` model calls in all, the most confident tokens each (LLaDA, Nie et al. 2025, arXiv 2502.09992).
        parallel: as topk, or with `threshold` or `factor` as many tokens as are confident enough (Fast-dLLM, Wu et al.
            2025, arXiv 2505.22618).
        prefix_cache, dual_cache: as parallel, but keys and values of what precedes the block, or of all but the block,
            are those of the block's first step.
        wino: unmasks boldly and takes back what a shadow of the block does not confirm (Hong et al. 2025,
            arXiv 2507.18578). Needs sdpa or eager attention.
        random_order: one masked position of the block a step, at random; the sum of `log_probs` is the exact
            log-probability of the completion in its `order` (at temperature 1 that of the draw itself). With early_stop
            it leaves out the tokens that were drawn after the EOS in its block and overwritten.
    Without a cache a row that is done with its block goes on to the next; with one it leaves the batch until the others
    are done, too.

    Args:
        prompt_ids: int64 [B, P].
        gen_length: tokens to make, a multiple of block_length.
        steps: model calls in all, a multiple of the number of blocks; what threshold, factor, wino and random_order
            need depends on the model, or is gen_length, and not on this.
        temperature: of the draw; 0 takes the best token.
        threshold: unmask every candidate at least so probable, and always the best one.
        factor: unmask the longest run of best candidates with c_(n) ≥ 1 − factor/(n+1), and always the best one.
        cfg_scale: classifier-free guidance, logits l_u + (1 + s)(l_c − l_u), the prompt masked out in l_u.
        wino_threshold, wino_threshold_back: unmask above the first, take back below the second; None: 0.6 and 0.9.
        remasking: rank candidates by their untempered probability, or at random.
        attention_mask: bool or int [B, P], 0 for left padding; every row needs a 1.
        mask_id, eos_id: default to the model's config.
        early_stop: once a row has an EOS with no mask before it, the rest of the row is EOS.
        row_ids: int64 [B], the identity of each row for its random numbers; default 0..B-1.
        compiled: of dual_cache, compile the steps that run on the block alone (on a GPU in the mode that captures CUDA
            graphs where torch finds it can; not run on a GPU yet). Costs a compilation for each shape; where it fails,
            the steps run as they are and a log line says why.

    Raises:
        ValueError: an argument out of range, named.
        TypeError: prompt_ids is not an integer tensor.
    """
    settings = DecodingOptions(
        decoder=decoder,
        gen_length=gen_length,
        block_length=block_length,
        steps=steps,
        temperature=temperature,
        threshold=threshold,
        factor=factor,
        cfg_scale=cfg_scale,
        wino_threshold=WINO_THRESHOLD if wino_threshold is None else wino_threshold,
        wino_threshold_back=WINO_THRESHOLD_BACK if wino_threshold_back is None else wino_threshold_back,
        remasking=remasking,
        early_stop=early_stop,
        seed=seed,
        compiled=compiled,
    )
    config_mask_id, config_eos_id = special_ids(model)
    mask_id = config_mask_id if mask_id is None else mask_id
    eos_id = config_eos_id if eos_id is None else eos_id
    if early_stop and eos_id is None:
        raise ValueError("early_stop needs eos_id, and the model's config has none")
    _check(prompt_ids, attention_mask, row_ids, mask_id, eos_id, unwrap(model).config.vocab_size)
    if isinstance(model, DistributedDataParallel):
        model = model.module  # its hooks would wait for ranks that need fewer calls
    start = time.perf_counter()
    batch, prompt_length = prompt_ids.shape
    attended = position_ids = None
    blank, padded = (0, False) if attention_mask is None else padding(attention_mask)
    if attention_mask is not None and padded:
        attended = torch.cat([attention_mask[:, blank:].bool(), attention_mask.new_ones(batch, gen_length).bool()], 1)
        position_ids = (attended.long().cumsum(1) - 1).clamp(min=0)
    # A canvas begins where the longest prompt does: no pass runs on columns that hold no token.
    tokens = torch.cat([prompt_ids[:, blank:], prompt_ids.new_full((batch, gen_length), mask_id)], 1)
    canvas = Canvas(model, tokens, attended, position_ids, prompt_length - blank, cfg_scale, mask_id)
    row_ids = torch.arange(batch, device=tokens.device) if row_ids is None else row_ids.to(tokens.device)
    with without_dropout(model):
        loop = BlockLoop(canvas, settings, row_ids, eos_id if early_stop else None)
        loop.run()
    seconds = time.perf_counter() - start
    tokens = torch.cat([prompt_ids[:, :blank], tokens], 1)
    return Generation(tokens, canvas.forwards, canvas.row_forwards, seconds, loop.log_probs, loop.order, loop.steps)


def _check(
    prompt_ids: Tensor,
    attention_mask: Tensor | None,
    row_ids: Tensor | None,
    mask_id: int | None,
    eos_id: int | None,
    vocab: int,
) -> None:
    for name, tensor in (("prompt_ids", prompt_ids), ("attention_mask", attention_mask), ("row_ids", row_ids)):
        if not isinstance(tensor, Tensor) and (tensor is not None or name == "prompt_ids"):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    for name, token in (("mask_id", mask_id), ("eos_id", eos_id)):
        if token is not None and (isinstance(token, bool) or not isinstance(token, int)):
            raise TypeError(f"{name} must be an int, got {type(token).__name__}")
        if token is not None and not 0 <= token < vocab:
            raise ValueError(f"{name} must be in [0, {vocab}), the vocabulary, got {token}")
    if mask_id is None:
        raise ValueError("mask_id is None and the model's config has no mask_token_id")
    if mask_id == eos_id:
        raise ValueError(f"mask_id and eos_id must differ, got {mask_id} for both")
    if prompt_ids.dtype != torch.int64:
        raise TypeError(f"prompt_ids must be int64, got {prompt_ids.dtype}")
    if prompt_ids.dim() != 2 or prompt_ids.shape[0] == 0:
        raise ValueError(f"prompt_ids must be [B, P] with B ≥ 1, got shape {tuple(prompt_ids.shape)}")
    if attention_mask is not None:
        if attention_mask.shape != prompt_ids.shape:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}, prompt_ids {tuple(prompt_ids.shape)}"
            )
        empty = (~attention_mask.bool().any(1)).nonzero().flatten().tolist()
        if empty and prompt_ids.shape[1]:
            raise ValueError(f"attention_mask has no token in row {empty[0]}: the prompt is all padding")
    if row_ids is not None and (row_ids.dtype != torch.int64 or row_ids.shape != prompt_ids.shape[:1]):
        raise ValueError(f"row_ids must be int64 [{len(prompt_ids)}], got {row_ids.dtype} {list(row_ids.shape)}")
    if bool(((prompt_ids < 0) | (prompt_ids >= vocab)).any()):
        raise ValueError(f"prompt_ids must be in [0, {vocab}), got {prompt_ids.min()} to {prompt_ids.max()}")
    masks = prompt_ids == mask_id
    if bool((masks if attention_mask is None else masks & attention_mask.bool()).any()):
        raise ValueError(f"prompt_ids contains the mask token {mask_id}")
