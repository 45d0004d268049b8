"""The mask token of a model that had none: a special token that nothing uses, or a new token."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from transformers import AddedToken, PreTrainedTokenizerBase

NEW_TOKEN = "<|mask|>"
_RESERVED = re.compile("mask|reserved|unused", re.IGNORECASE)
_LIKE_A_SPECIAL_TOKEN = re.compile(r"<\S+>|\[\S+\]")
_TURNS = [
    [{"role": "system", "content": "A"}, {"role": "user", "content": "B"}, {"role": "assistant", "content": "C"}],
    [{"role": "user", "content": "B"}, {"role": "assistant", "content": "C"}],
    [{"role": "user", "content": "B"}],
]


@dataclass(frozen=True)
class MaskToken:
    """The mask token that a tokenizer was given. is_new: no row of the embedding was meant for it."""

    text: str
    token_id: int
    is_new: bool


def add_mask_token(
    tokenizer: PreTrainedTokenizerBase, vocab_size: int, eos_ids: Iterable[int], text: str | None = None
) -> MaskToken:
    """Make a token the tokenizer's `mask_token`, in place.

    A token is in use if it is an EOS, padding or another named token of the tokenizer, or if the chat template writes
    it. Without `text` the first of these is taken:

    1. the mask token that the tokenizer names,
    2. the last special token that is not in use and is called mask, reserved or unused,
    3. a new token, if the embedding has a row beyond the tokenizer's tokens,
    4. the last special token that is not in use,
    5. a new token, for which the embedding must get a row.

    Args:
        vocab_size: rows of the embedding.
        eos_ids: every EOS of the model.
        text: the token to take; None chooses.

    Raises:
        ValueError: `text` is an ordinary token of the vocabulary, is in use, or does not look like a special token.
    """
    special = {
        token_id: token for token_id, token in tokenizer.added_tokens_decoder.items() if token.special and token_id >= 0
    }
    named = tokenizer.mask_token_id
    used = _used_ids(tokenizer, special) | set(eos_ids)
    unused = sorted(token_id for token_id in special if token_id not in used and token_id < vocab_size)
    vocabulary = tokenizer.get_vocab()
    if text is not None:
        token_id = vocabulary.get(text)
        if token_id is not None and token_id not in special:
            raise ValueError(
                f"mask token {text!r} is ordinary text of the vocabulary, so it may stand in prompts and answers; "
                f"{_advice(tokenizer, unused)}"
            )
        if token_id in used:
            raise ValueError(
                f"mask token {text!r} is in use: as EOS, padding or another named token, or by the chat template; "
                f"{_advice(tokenizer, unused)}"
            )
        if token_id is None and not _LIKE_A_SPECIAL_TOKEN.fullmatch(text):
            raise ValueError(
                f"mask token {text!r} does not look like a special token, so it may stand in prompts and answers; "
                f"{_advice(tokenizer, unused)}"
            )
    elif named is not None and named in unused:
        token_id = named
    elif reserved := [token_id for token_id in unused if _RESERVED.search(special[token_id].content)]:
        token_id = reserved[-1]
    elif vocab_size > len(tokenizer) and NEW_TOKEN not in vocabulary:
        token_id = None
    else:
        token_id = unused[-1] if unused else None

    if token_id is not None:
        tokenizer.add_special_tokens({"mask_token": special[token_id]})
        return MaskToken(special[token_id].content, token_id, is_new=token_id >= vocab_size)
    text = text or NEW_TOKEN
    tokenizer.add_special_tokens({"mask_token": AddedToken(text, special=True, normalized=False)})
    return MaskToken(text, tokenizer.get_vocab()[text], is_new=True)


def _used_ids(tokenizer: PreTrainedTokenizerBase, special: dict[int, AddedToken]) -> set[int]:
    """Ids of the tokenizer's named tokens, without a mask token, and of the special tokens of its chat template."""
    names = ("bos", "eos", "unk", "sep", "pad", "cls")
    ids = {getattr(tokenizer, f"{name}_token_id") for name in names} - {None}
    if not tokenizer.chat_template:
        return ids
    text = str(tokenizer.chat_template)
    ids |= {token_id for token_id, token in special.items() if token.content in text}
    for turns in _TURNS:  # a template may build the name of a token from the role
        try:
            rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=len(turns) == 1)
        except Exception:  # a program of the model's authors: it may refuse the system's turn, and raise anything
            continue
        ids |= set(tokenizer(rendered, add_special_tokens=False)["input_ids"])
    return ids


def _advice(tokenizer: PreTrainedTokenizerBase, unused: list[int]) -> str:
    new = f"name a new token, such as {NEW_TOKEN}"
    if not unused:
        return new
    names = ", ".join(str(tokenizer.convert_ids_to_tokens(token_id)) for token_id in reversed(unused[-3:]))
    return f"{new}, or a special token that nothing uses: {names}"
