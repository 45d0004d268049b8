"""`generate`: checks the arguments, decodes, and returns a `Generation` (docs/maths.md, section 9)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from ..config.decoding import OPTIONS, DecodingOptions, decoding_options
from ..config.errors import nearest_name
from ..models.masked_lm import special_ids, unwrap, without_dropout
from ..models.token_ids import listed_ids
from ..models.tokenizer import padding
from .alike import alike_rows
from .canvas import Canvas
from .loop import BlockLoop

COMPILED_WIDTHS = 64  # where steps are compiled, a canvas has a multiple of so many columns: few widths are compiled
_REQUIRED = ("decoder", "gen_length", "block_length", "steps")  # without an options object


@dataclass(frozen=True)
class Generation:
    """The completions of one `generate`, and their cost.

    sequences: int64 [B, P + gen_length], prompt and completion.
    forwards: model calls; row_forwards: rows of all model calls, with guidance two for each sequence; positions: the
        positions of these rows.
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
    positions: int

    @property
    def tokens_per_forward(self) -> float:
        """Tokens that were drawn, and not overwritten after an EOS, for each row that went through the model."""
        return float((self.order >= 0).sum()) / self.row_forwards


@torch.no_grad()
def generate(
    model: nn.Module,
    prompt_ids: Tensor,
    options: DecodingOptions | None = None,
    *,
    attention_mask: Tensor | None = None,
    mask_id: int | None = None,
    eos_id: int | list[int] | tuple[int, ...] | None = None,
    row_ids: Tensor | None = None,
    **keys: Any,
) -> Generation:
    """Fill a completion of masks block by block, the most confident tokens first (docs/maths.md, section 9).

    Only the masked positions of the current block pass through lm_head and the draw; the mask token is never drawn. A
    row's draws depend on (seed, its row id) alone, not on the rows beside it. No dropout is live.

    Decoders:
        topk: `steps` model calls in all, the most confident tokens each (LLaDA, Nie et al. 2025, arXiv 2502.09992).
        parallel: as topk, or with `threshold` or `factor` all tokens that are confident enough (Fast-dLLM, Wu et al.
            2025, arXiv 2505.22618).
        prefix_cache, dual_cache: parallel with `cache` prefix or dual.
        wino: unmasks many tokens and masks again those that a shadow of the block does not confirm (Hong et al. 2025,
            arXiv 2507.18578). Needs sdpa or eager attention.
        risk: the most confident tokens whose chances of being wrong, 1 − c, sum to at most 1 − `threshold`, and never
            fewer than topk unmasks (SLIM-RL's bounded risk, arXiv 2607.00208).
        entropy: the tokens of least entropy H whose ΣH without the largest is at most `entropy_bound` (EB-Sampler,
            Ben-Hamu et al. 2025, arXiv 2505.24857).
        hierarchy: the best token of each run of neighbouring masks if its probability is above `low_threshold`, and
            with `threshold` all tokens above it (dInfer, Ma et al. 2025, arXiv 2510.08666).
        credit: as parallel by `threshold`, with logits l + α·log(1 + C); the credit C of a token grows at each step at
            which it is the most probable (CreditDecoding, arXiv 2510.06133).
        random_order: one masked position of the block a step, at random; the sum of `log_probs` is the exact
            log-probability of the completion in its `order` (at temperature 1 the log-probability of the draw, too).
            With early_stop the sum leaves out tokens that were drawn after the EOS in its block and overwritten.
    The blocks of a block-causal model are counted from the prompt's first token, and those of the decoder begin with
    them: the first block holds the rest of the prompt, and the last block is so much shorter.

    With `cache` later steps of a block use the keys and values of its first step: prefix for the positions before the
    block, dual for all positions outside it. wino and random_order take none. A block-causal model has prefix by
    default: for it that is exact, with random_order, too, and takes no call more. Its rows go at their own pace.

    A pass over the whole canvas sees prompt and completion, or with `suffix` no more than some masks after the block:
    the predictions of a block-causal model stay the same, those of others change.

    Without a cache a row that has finished its block goes on to the next block. With a cache it leaves the batch until
    the other rows have finished, too. Rows with the same prompt share the first model call, because their completions
    are all masks then.

    `compiled` makes one function of a step of dual_cache after a block's first: pass, guidance, head, draw, remasking
    and notes. torch compiles it once for each shape, and a GPU replays it as one CUDA graph (not run on a GPU yet). All
    rows of the batch are in it, because the shape is fixed: those that have ended or finished the block are carried.
    Rows that have ended leave the first steps of blocks. With a threshold or a factor the host reads one small tensor
    after each step; else it waits at the end of a block, and only with early_stop. The canvas gets padding up to a
    multiple of 64 columns. If torch cannot compile or capture, the steps run without that, and a log line says why.

    Args:
        prompt_ids: int64 [B, P].
        options: the decoding options, in one object; a config is one, too.
        keys: decoding options by name: the fields of `dmpo.config.decoding.DecodingOptions`, with their types,
            defaults and meanings. They change `options`; without `options`, decoder, gen_length, block_length and steps
            must be among them.
        attention_mask: bool or int [B, P], 0 for padding; every row needs a 1. The tokens at the 1s are the prompt, in
            their order: padding on the left, on the right or between them gives the same completions, up to rounding.
        mask_id, eos_id: default to the model's config. Each of several EOS ids ends a row; with early_stop the first
            id fills the rest of the row.
        row_ids: int64 [B], the identity of each row for its random numbers; default 0..B-1.

    Raises:
        ValueError: an argument is out of range; prompt and completion are longer than the model takes.
        TypeError: an argument has the wrong type, an option is unknown or missing, prompt_ids is no integer tensor.
    """
    options = _options(options, keys)
    config_mask_id, config_eos_ids = special_ids(model)
    mask_id = config_mask_id if mask_id is None else mask_id
    eos_ids = config_eos_ids if eos_id is None else listed_ids(eos_id)
    for name in ("early_stop", "logits_eos_inf", "confidence_eos_eot_inf"):
        if getattr(options, name) and not eos_ids:
            raise ValueError(f"{name} needs eos_id, and the model's config has none: give eos_id, or {name}=False")
    options = options_of_blocks(model, options)
    config = unwrap(model).config
    prompts, of_prompts = _check(prompt_ids, attention_mask, row_ids, mask_id, eos_ids, config.vocab_size)
    if isinstance(model, DistributedDataParallel):
        model = model.module  # its hooks would wait for ranks that need fewer calls
    start = time.perf_counter()
    batch, prompt_length = prompt_ids.shape
    attended = position_ids = None
    prompt, blank, padded = prompt_ids, 0, False
    if attention_mask is not None:
        # A model that predicts at the left neighbour needs the prompt's last token right before the completion.
        order = attention_mask.int().argsort(dim=1, stable=True)  # padding first, then the tokens in order
        prompt, of_prompt = prompt_ids.gather(1, order), attention_mask.bool().gather(1, order)
        blank, padded = padding(of_prompt)
    longest = prompt_length - blank
    if longest + options.gen_length > config.max_position_embeddings:
        raise ValueError(
            f"prompt_ids and gen_length are {longest} + {options.gen_length} tokens, the model takes "
            f"{config.max_position_embeddings}: shorten the prompt or gen_length"
        )
    # A canvas begins with the longest prompt: no pass runs on columns without a token. A compiled one has a few more.
    prompt, width = prompt[:, blank:], longest
    if options.compiled:
        of_prompt = torch.ones_like(prompt, dtype=torch.bool) if attention_mask is None else of_prompt[:, blank:]
        before = -(longest + options.gen_length) % COMPILED_WIDTHS
        prompt, of_prompt = (functional.pad(columns, (before, 0)) for columns in (prompt, of_prompt))
        blank, padded, width = 0, True, longest + before
    if padded:
        attended = torch.cat([of_prompt[:, blank:], of_prompt.new_ones(batch, options.gen_length)], 1)
        position_ids = (attended.long().cumsum(1) - 1).clamp(min=0)
    tokens = torch.cat([prompt, prompt.new_full((batch, options.gen_length), mask_id)], 1)
    alike = alike_rows(prompts, of_prompts, bool(options.cfg_scale), tokens.device)
    canvas = Canvas(model, tokens, attended, position_ids, width, options.cfg_scale, mask_id, alike)
    row_ids = torch.arange(batch, device=tokens.device) if row_ids is None else row_ids.to(tokens.device)
    with without_dropout(model):
        loop = BlockLoop(canvas, options, row_ids, eos_ids, _shared_tokens(model, prompts, of_prompts))
        loop.run()
    seconds = time.perf_counter() - start
    tokens = torch.cat([prompt_ids, tokens[:, width:]], 1)  # the prompt as it was given
    drawn = loop.sampler
    return Generation(
        sequences=tokens,
        forwards=canvas.forwards,
        row_forwards=canvas.row_forwards,
        seconds=seconds,
        log_probs=drawn.log_probs,
        order=drawn.order,
        steps=drawn.steps,
        positions=canvas.positions,
    )


def options_of_blocks(model: nn.Module, options: DecodingOptions) -> DecodingOptions:
    """The options with which a model is decoded: a block-causal one without a suffix, unless cache is none.

    Its prefix is cached then (`make_pass`). Both are exact.

    Raises:
        ValueError: a block-causal model is not decoded so.
    """
    size = unwrap(model).block_size
    if size is None:
        return options
    if options.decoder == "wino":
        raise ValueError(
            "decoder must not be 'wino' for a block-causal model: its shadow would see the blocks otherwise than the "
            "model was trained to"
        )
    if options.cached == "dual":
        raise ValueError(
            "cache must be prefix or none for a block-causal model, got dual: no token attends to what follows its "
            "block, so there is nothing else to store"
        )
    if options.block_length % size:
        raise ValueError(
            f"block_length must be a multiple of the model's block_size {size}, got {options.block_length}"
        )
    if options.cache == "none":
        return options
    return decoding_options(options, suffix="none")


def _shared_tokens(model: nn.Module, prompts: Tensor, of_prompts: Tensor | None) -> list[int] | None:
    """For each row the tokens of the prompt in the block that its completion begins in; None: no model's blocks."""
    size = unwrap(model).block_size
    if size is None:
        return None
    lengths = [prompts.shape[1]] * len(prompts) if of_prompts is None else of_prompts.sum(1).tolist()
    return [length % size for length in lengths]


def _options(options: DecodingOptions | None, keys: Mapping[str, Any]) -> DecodingOptions:
    """The options of one call: `options`, changed by `keys`, or `keys` alone."""
    for key in keys:
        if key not in OPTIONS:
            raise TypeError(f"generate() got an unexpected keyword argument {key!r}{nearest_name(key, OPTIONS)}")
    if options is not None:
        if not isinstance(options, DecodingOptions):
            raise TypeError(f"options must be a DecodingOptions or a config, got {type(options).__name__}")
        return decoding_options(options, **keys)
    if missing := [name for name in _REQUIRED if name not in keys]:
        raise TypeError(f"generate() needs {', '.join(missing)}: give them by name, or options=DecodingOptions(...)")
    return DecodingOptions(**keys)


def _check(
    prompt_ids: Tensor,
    attention_mask: Tensor | None,
    row_ids: Tensor | None,
    mask_id: int | None,
    eos_ids: Sequence[int],
    vocab: int,
) -> tuple[Tensor, Tensor | None]:
    """Raise an error for bad input; returns the prompts and their mask (bool) on the host."""
    for name, tensor in (("prompt_ids", prompt_ids), ("attention_mask", attention_mask), ("row_ids", row_ids)):
        if not isinstance(tensor, Tensor) and (tensor is not None or name == "prompt_ids"):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    for name, token in (("mask_id", mask_id), *(("eos_id", eos_id) for eos_id in eos_ids)):
        if token is not None and (isinstance(token, bool) or not isinstance(token, int)):
            raise TypeError(f"{name} must be an int, got {type(token).__name__}")
        if token is not None and not 0 <= token < vocab:
            raise ValueError(f"{name} must be in [0, {vocab}), the vocabulary, got {token}")
    if mask_id is None:
        raise ValueError("mask_id is None and the model's config has no mask_token_id")
    if mask_id in eos_ids:
        raise ValueError(f"mask_id and eos_id must differ, got {mask_id} for both")
    if prompt_ids.dtype != torch.int64:
        raise TypeError(f"prompt_ids must be int64, got {prompt_ids.dtype}")
    if prompt_ids.dim() != 2 or prompt_ids.shape[0] == 0:
        raise ValueError(f"prompt_ids must be [B, P] with B ≥ 1, got shape {tuple(prompt_ids.shape)}")
    prompts, of_prompts = prompt_ids.cpu(), None
    if attention_mask is not None:
        if attention_mask.shape != prompt_ids.shape:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}, prompt_ids {tuple(prompt_ids.shape)}"
            )
        mask = attention_mask.cpu()
        if bool(((mask != 0) & (mask != 1)).any()):
            values = "1 at the tokens of the prompt and 0 at padding"
            raise ValueError(f"attention_mask must be {values}, got {mask.min()} to {mask.max()}")
        of_prompts = mask.bool()
        empty = (~of_prompts.any(1)).nonzero().flatten().tolist()
        if empty and prompt_ids.shape[1]:
            raise ValueError(f"attention_mask has no token in row {empty[0]}: the prompt is all padding")
    if row_ids is not None and (row_ids.dtype != torch.int64 or row_ids.shape != prompt_ids.shape[:1]):
        raise ValueError(f"row_ids must be int64 [{len(prompt_ids)}], got {row_ids.dtype} {list(row_ids.shape)}")
    if bool(((prompts < 0) | (prompts >= vocab)).any()):
        raise ValueError(f"prompt_ids must be in [0, {vocab}), got {prompts.min()} to {prompts.max()}")
    masks = prompts == mask_id
    if bool((masks if of_prompts is None else masks & of_prompts).any()):
        raise ValueError(f"prompt_ids contains the mask token {mask_id}")
    return prompts, of_prompts
