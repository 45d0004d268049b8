"""The tokenizer of a checkpoint: rows of a task as the token ids that a model is given, and its tokens as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase, Qwen2Tokenizer

from ..tasks.messages import MESSAGES
from .files import checkpoint_folder, read_json


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint folder or Hub id, without remote code. Raises ValueError when there is none."""
    folder = checkpoint_folder(path)
    settings = folder / "tokenizer_config.json"
    if not settings.is_file() and not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{folder} holds no tokenizer: neither tokenizer.json nor tokenizer_config.json")
    # Dream ships its tokenizer as remote code; it is Qwen2's.
    is_dream = settings.is_file() and read_json(settings).get("tokenizer_class") == "DreamTokenizer"
    loader = Qwen2Tokenizer if is_dream else AutoTokenizer
    # A blank config, as transformers knows none of these types and would warn of a mismatch.
    has_foreign_config = (folder / "config.json").is_file() and (
        read_json(folder / "config.json").get("model_type") in ("llada", "Dream", "illada", "sdar")
    )
    options: dict[str, Any] = {"config": PreTrainedConfig()} if has_foreign_config and not is_dream else {}
    try:
        tokenizer: PreTrainedTokenizerBase = loader.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True, **options
        )
    except Exception as error:  # the tokenizers library raises plain Exception on a broken file
        raise ValueError(f"{folder} holds no tokenizer that loads without remote code: {error}") from error
    return tokenizer


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, Any]], limit: int
) -> tuple[Tensor, Tensor]:
    """Prompt ids int64 [B, P], left-padded to the longest, and their mask bool [B, P].

    Raises:
        ValueError: a prompt has more than `limit` tokens, or none.
    """
    encoded = [encode_prompt(tokenizer, row, limit) for row in rows]
    return pad_left(tokenizer, encoded, max(len(ids) for ids in encoded))


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    row: Mapping[str, Any],
    limit: int,
    shots: Sequence[tuple[str, str]] = (),
) -> list[int]:
    """Token ids of a row's prompt, see `prompt_text`.

    Raises:
        ValueError: it has more than `limit` tokens, or none; or as `prompt_text`.
    """
    text = prompt_text(tokenizer, row, shots)
    ids = tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"]
    if not 0 < len(ids) <= limit:
        raise ValueError(
            f"prompt has {len(ids)} tokens, must be 1 to max_prompt_length {limit}: {row['prompt'][:80]!r}"
            + (f" with {len(shots)} shots" if shots else "")
        )
    return list(ids)


def prompt_text(
    tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any], shots: Sequence[tuple[str, str]] = ()
) -> str:
    """The text of a row's prompt, as the tokenizer gets it.

    A tokenizer with a chat template wraps the prompt as the user's turn, and opens the assistant's turn. Messages of
    the row (`prompt_messages`) become the turns in place of the prompt. Without a template the text is the prompt.
    Shots, pairs of a prompt and its completion, stand before the prompt and after a message of the system: as turns of
    their own, or, without a template, each pair followed by an empty line.

    Raises:
        ValueError: the template refuses the messages, or there are several and no template.
    """
    messages = list(row.get(MESSAGES) or [{"role": "user", "content": row["prompt"]}])
    if not tokenizer.chat_template:
        if [message["role"] for message in messages] != ["user"]:
            roles = ", ".join(message["role"] for message in messages)
            raise ValueError(
                f"the model's tokenizer has no chat template, so a prompt must be a text or one message of the user, "
                f"got messages of {roles}: {row['prompt'][:80]!r}"
            )
        return "".join(f"{prompt}\n{completion}\n\n" for prompt, completion in shots) + str(messages[0]["content"])
    first = next((i for i, message in enumerate(messages) if message["role"] != "system"), 0)
    for prompt, completion in reversed(shots):
        turns = ({"role": "user", "content": prompt}, {"role": "assistant", "content": completion})
        messages[first:first] = turns
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # the template is a program of the model's authors, and may raise anything
        raise ValueError(f"the model's chat template refuses the prompt {row['prompt'][:80]!r}: {error}") from error
    return str(text)


def seen_prompt(tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any]) -> str:
    """The exact text that the model sees as a row's prompt: its tokens as text, special tokens included.

    A character that the vocabulary lacks shows as the token that stands for it. Raises as `prompt_text`.
    """
    text = prompt_text(tokenizer, row)
    ids = tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"]
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


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
    blank, columns_used, attended_count = torch.stack([first, columns.sum(), attended.sum()]).tolist()
    return (blank, attended_count < len(mask) * (mask.shape[1] - blank)) if columns_used else (0, True)


def decode_text(tokenizer: PreTrainedTokenizerBase, tokens: Tensor) -> list[str]:
    """Completions as text, without special tokens."""
    return list(tokenizer.batch_decode(tokens, skip_special_tokens=True))
