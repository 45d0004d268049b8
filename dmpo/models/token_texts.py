"""The text of each token of a completion, so that people see which tokens it was drawn as."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from transformers import PreTrainedTokenizerBase


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text of each token; without the special tokens, the texts together are the decoded completion.

    A special token has its name, such as `<|endoftext|>`. A character whose bytes are spread over several tokens is the
    text of the last of them, and the tokens before it have an empty text.
    """
    special = _special_names(tokenizer, ids)
    plain = [token for token in ids if token not in special]
    texts = iter(_pieces(tokenizer, plain))
    return [special[token] if token in special else next(texts) for token in ids]


def _special_names(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> dict[int, str]:
    """The names of the ids that decoding skips."""
    names, texts = ({token: _decode(tokenizer, [token], skip) for token in set(ids)} for skip in (False, True))
    return {token: name for token, name in names.items() if name and not texts[token]}


def _pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The decoded text, cut at the tokens. The tokens are decoded in short windows, because decoding every prefix of a
    completion would take time that grows with the square of its length."""
    whole = _decode(tokenizer, ids)
    start = end = 0  # the window begins with tokens start..end, whose text in the window is `before`
    base = cut = 0  # where in `whole` the text after these tokens begins, and up to where it is given to tokens
    before, pieces = "", []
    for index in range(len(ids)):
        text = _decode(tokenizer, ids[start : index + 1])[len(before) :]
        agreed = base + _common_length(text, whole[base : base + len(text)])
        pieces.append(whole[cut : max(cut, agreed)])
        cut = max(cut, agreed)
        if text and agreed == base + len(text):  # no half of a character at the end
            start, end, base = end, index + 1, agreed
            before = _decode(tokenizer, ids[start:end])
    if pieces:
        pieces[-1] += whole[cut:]
    return pieces


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], skip_special: bool = True) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=skip_special))


def _common_length(a: str, b: str) -> int:
    """How many characters two texts begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
