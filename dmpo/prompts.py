"""Rows of a task as token ids a model is given, and its tokens as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, Any]], limit: int
) -> tuple[Tensor, Tensor]:
    """Prompt ids int64 [B, P], left-padded to the longest, and their mask bool [B, P].

    Raises:
        ValueError: a prompt has more than `limit` tokens, or none.
    """
    encoded = [encode_prompt(tokenizer, row, limit) for row in rows]
    return pad_left(tokenizer, encoded, max(len(ids) for ids in encoded))


def encode_prompt(tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any], limit: int) -> list[int]:
    """Token ids of a row's prompt.

    A tokenizer with a chat template wraps the prompt as the user's turn. `shots` of the row, pairs of a prompt and its
    completion, stand before it: as turns of their own, or, without a template, each pair followed by an empty line.

    Raises:
        ValueError: it has more than `limit` tokens, or none.
    """
    text, shots = row["prompt"], row.get("shots", ())
    if tokenizer.chat_template:
        turns = []
        for prompt, completion in [*shots, (text, None)]:
            turns.append({"role": "user", "content": prompt})
            if completion is not None:
                turns.append({"role": "assistant", "content": completion})
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    else:
        text = "".join(f"{prompt}\n{completion}\n\n" for prompt, completion in shots) + text
    ids = tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"]
    if not 0 < len(ids) <= limit:
        raise ValueError(
            f"prompt has {len(ids)} tokens, must be 1 to max_prompt_length {limit}: {row['prompt'][:80]!r}"
            + (f" with {len(shots)} shots" if shots else "")
        )
    return list(ids)


def pad_left(tokenizer: PreTrainedTokenizerBase, encoded: Sequence[list[int]], width: int) -> tuple[Tensor, Tensor]:
    """Ids int64 [B, width] of prompts, padding first, and bool [B, width], false on padding."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    prompt_ids = torch.tensor([[pad] * (width - len(ids)) + ids for ids in encoded])
    prompt_mask = torch.tensor([[False] * (width - len(ids)) + [True] * len(ids) for ids in encoded])
    return prompt_ids, prompt_mask


def padding(mask: Tensor) -> tuple[int, bool]:
    """Of a prompt mask [B, P], bool or int: columns before the first token of any row, and whether anything is padded
    behind them. On a GPU this waits for the device, once."""
    if not mask.shape[1]:
        return 0, False
    attended = mask.bool()
    columns = attended.any(0)
    first = columns.int().argmax()
    blank, held, whole = torch.stack([first, columns.sum(), attended.sum()]).tolist()
    return (blank, whole < len(mask) * (mask.shape[1] - blank)) if held else (0, True)


def decode_text(tokenizer: PreTrainedTokenizerBase, tokens: Tensor) -> list[str]:
    """Completions as text, without special tokens."""
    return list(tokenizer.batch_decode(tokens, skip_special_tokens=True))
