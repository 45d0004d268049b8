"""If these fail, the page of a run shades the wrong characters, or shows another completion than was rewarded."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from dmpo.models.token_texts import token_texts
from dmpo.pretrain import character_tokenizer

EOS, TURN = "<|endoftext|>", "<|eot|>"  # the second is special, and no named token of the tokenizer, as in LLaDA's


def wrapped(vocabulary: dict[str, int], decoder: decoders.Decoder) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=next(iter(vocabulary))))
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in (EOS, TURN)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS)


@cache
def byte_level() -> PreTrainedTokenizerFast:
    """As Qwen2's and LLaDA's: a token is any bytes; here all single bytes and a few words, one with half a letter."""
    words = [*sorted(ByteLevel.alphabet()), "Ġthe", "cat", "ĠÃ", "©Ċ", "ðŁĺ"]
    return wrapped({word: index for index, word in enumerate(words)}, decoders.ByteLevel())


@cache
def sentence_piece() -> PreTrainedTokenizerFast:
    """As Llama's: a metaspace is a space, except at the start; a byte has a token of its own."""
    words = ["▁", "▁the", "cat", "é", *(f"<0x{byte:02X}>" for byte in range(256))]
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return wrapped({word: index for index, word in enumerate(words)}, decoders.Sequence(steps))


def ids_of(tokenizer: PreTrainedTokenizerFast, *names: str) -> list[int]:
    return [int(tokenizer.vocab[name]) for name in names]


def byte_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    if tokenizer is sentence_piece():
        return ids_of(tokenizer, *(f"<0x{byte:02X}>" for byte in text.encode()))
    pieces = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return ids_of(tokenizer, *(letter for piece, _ in pieces for letter in piece))


def test_bytes_of_one_character() -> None:
    tokenizer = byte_level()
    words = ids_of(tokenizer, "cat", "Ġthe", "ĠÃ", "©Ċ", "ðŁĺ")
    ids = [*words, *byte_ids(tokenizer, "😀")[3:], *byte_ids(tokenizer, "€!")]
    assert token_texts(tokenizer, ids) == ["cat", " the", " ", "é\n", "", "😀", "", "", "€", "!"]
    assert token_texts(tokenizer, ids[:5]) == ["cat", " the", " ", "é\n", "�"], "half a character at the end"
    assert token_texts(tokenizer, [*ids[4:5], *words]) == ["�", "cat", " the", " ", "é\n", "�"]


def test_spaces_of_words() -> None:
    tokenizer = sentence_piece()
    the, cat = ids_of(tokenizer, "▁the", "cat")
    assert token_texts(tokenizer, [the, the, cat, *byte_ids(tokenizer, "é"), the]) == [
        *("the", " the", "cat", "", "é", " the")
    ]


def test_special_tokens_have_their_names() -> None:
    tokenizer = byte_level()
    cat, eos, turn = ids_of(tokenizer, "cat", EOS, TURN)
    assert token_texts(tokenizer, [turn, cat, eos, eos]) == [TURN, "cat", EOS, EOS]
    assert token_texts(tokenizer, []) == []
    characters = character_tokenizer()
    assert token_texts(characters, [*characters("12.").input_ids, 0, 1]) == ["1", "2", ".", "<eos>", "<mask>"]


@pytest.mark.parametrize("make", [byte_level, sentence_piece, character_tokenizer])
@given(drawn=st.lists(st.integers(0, 10**6), max_size=40))
def test_together_they_are_the_completion(make: object, drawn: list[int]) -> None:
    """Of any tokens at all, however broken the text is."""
    tokenizer = make()  # type: ignore[operator]
    ids = [number % len(tokenizer) for number in drawn]
    texts = token_texts(tokenizer, ids)
    special = set(tokenizer.all_special_ids) | {tokenizer.convert_tokens_to_ids(TURN)}
    plain = [text for token, text in zip(ids, texts, strict=True) if token not in special]
    assert "".join(plain) == tokenizer.decode(ids, skip_special_tokens=True)


@given(text=st.text(max_size=30))
def test_each_character_belongs_to_its_last_byte(text: str) -> None:
    expected = [part for letter in text for part in [*[""] * (len(letter.encode()) - 1), letter]]
    assert token_texts(byte_level(), byte_ids(byte_level(), text)) == expected
