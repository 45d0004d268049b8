"""If these fail, a converted model takes a mask token that prompts or answers may hold, or one without a row."""

from __future__ import annotations

from typing import Any

import pytest

from dmpo.models.mask_token import MaskToken, add_mask_token
from tests.models.conversion_sources import SPECIAL, byte_tokenizer

ALL = len(byte_tokenizer())


@pytest.mark.parametrize(
    ("tokenizer", "spare", "expected"),
    [
        (byte_tokenizer(), 0, MaskToken("<image>", 3, is_new=False)),
        (byte_tokenizer(), 1, MaskToken("<|mask|>", ALL, is_new=True)),
        (byte_tokenizer((*SPECIAL, "<reserved_1>", "<reserved_2>", "<x>")), 1, MaskToken("<reserved_2>", 5, False)),
        (byte_tokenizer(("<|endoftext|>", "<start>", "[MASK]", "<x>")), 1, MaskToken("[MASK]", 2, is_new=False)),
        (byte_tokenizer(mask_token="<tool>"), 1, MaskToken("<tool>", 2, is_new=False)),
        (byte_tokenizer(pad_token="<image>", unk_token="<tool>"), 0, MaskToken("<|mask|>", ALL, is_new=True)),
        # The template builds the names of these from the role.
        (byte_tokenizer((*SPECIAL, "<|user|>", "<|system|>", "<|assistant|>")), 0, MaskToken("<image>", 3, False)),
        (byte_tokenizer(template=None), 0, MaskToken("<image>", 3, is_new=False)),
    ],
)
def test_the_token_that_is_chosen(tokenizer: Any, spare: int, expected: MaskToken) -> None:
    assert add_mask_token(tokenizer, len(tokenizer) + spare, [0]) == expected
    assert tokenizer.mask_token_id == expected.token_id
    text = f"ab{expected.text}c"
    ids = tokenizer(text)["input_ids"]
    assert ids.count(expected.token_id) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == "abc"


def test_a_token_of_one_s_own() -> None:
    assert add_mask_token(byte_tokenizer(), ALL, [0], "<tool>") == MaskToken("<tool>", 2, is_new=False)
    assert add_mask_token(byte_tokenizer(), ALL, [0], "[M]") == MaskToken("[M]", ALL, is_new=True)
    # The embedding has no row for a special token: it gets one.
    assert add_mask_token(byte_tokenizer((*SPECIAL, "<x>")), 4, [0], "<x>") == MaskToken("<x>", 4, is_new=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "'a' is ordinary text of the vocabulary, .*; name a new token, such as <|mask|>, or .*: <image>, <tool>"),
        ("ab", "ordinary text of the vocabulary"),
        ("<|endoftext|>", "'<|endoftext|>' is in use"),
        ("<start>", "in use"),
        ("<image>", "in use"),
        ("hello", "'hello' does not look like a special token"),
        ("<a b>", "does not look like a special token"),
        ("", "does not look like a special token"),
    ],
)
def test_a_token_that_texts_may_hold(text: str, message: str) -> None:
    tokenizer = byte_tokenizer()
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        add_mask_token(tokenizer, ALL, [0, 3] if text == "<image>" else [0], text)
    assert tokenizer.mask_token is None
    assert len(tokenizer) == ALL
