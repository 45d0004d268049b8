"""Which rows are held out: a key decides the split of a row, so that rows with the same key are in the same split."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]

_PUNCTUATION = re.compile(r"(?<![0-9])\.|\.(?![0-9])|[^\w+\-*/^=<>.]|_")
SPLITS = ("train", "validation", "test")


def check_split(split: str, splits: Iterable[str] = SPLITS) -> None:
    """Raise ValueError for an unknown split."""
    if split not in splits:
        raise ValueError(f"unknown split {split!r}, choose one of {', '.join(splits)}")


def text_key(text: str) -> str:
    """A key of a problem's text. It ignores case, white space and punctuation, but not operators and decimal points."""
    return text_hash(_PUNCTUATION.sub("", text.casefold()))


def exact_key(text: str) -> str:
    """A key of a text that ignores only case and white space. In code and in puzzles every sign may count."""
    return text_hash("".join(text.casefold().split()))


def text_hash(text: str) -> str:
    """A fixed hash of a text, as 32 hexadecimal digits."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def hashed_split(key: str, *, held_out: int = 20) -> str:
    """The split of a key, for rows of one source: of `held_out` keys one is test, one validation, the others train."""
    remainder = int(text_hash(f"split/{key}"), 16) % held_out
    return {0: "test", 1: "validation"}.get(remainder, "train")


def smallest_keys(keys: Iterable[str], count: int, purpose: str) -> set[str]:
    """The `count` keys with the smallest hash. The order of the keys does not matter, and purposes are independent."""
    return set(sorted(set(keys), key=lambda key: text_hash(f"{purpose}/{key}"))[:count])


def hold_out(train: list[str], test: list[str], count: int, what: str) -> dict[str, list[int]]:
    """The indices of the rows of each split, from the keys of a training set and a test set.

    Of the keys of `train` that are not in `test`, the `count` keys with the smallest hash are for validation. Rows of
    `train` whose key is in `test` are in no split, because they would leak the test set into training.

    Raises:
        ValueError: no row is left for training. `what` names the data in the message.
    """
    test_keys = set(test)
    validation = smallest_keys((key for key in train if key not in test_keys), count, "validation")
    indices: dict[str, list[int]] = {"train": [], "validation": [], "test": list(range(len(test)))}
    for index, key in enumerate(train):
        if key not in test_keys:
            indices["validation" if key in validation else "train"].append(index)
    if not indices["train"]:
        leaked = sum(key in test_keys for key in train)
        raise ValueError(
            f"{what} leaves no row for training: of {len(train)} rows {leaked} are also in the test set, and "
            f"validation_rows is {count}; give more rows, or fewer validation_rows"
        )
    return indices
