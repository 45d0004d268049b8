"""Who is held out: rows go to a split by a key, so that what shares a key never crosses from one split to another."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]

_PUNCTUATION = re.compile(r"(?<![0-9])\.|\.(?![0-9])|[^\w+\-*/^=<>.]|_")
SPLITS = ("train", "validation", "test")


def check_split(split: str, known: Iterable[str] = SPLITS) -> None:
    """Raises ValueError for an unknown split."""
    if split not in known:
        raise ValueError(f"unknown split {split!r}, choose one of {', '.join(known)}")


def text_key(text: str) -> str:
    """A key of a problem's text, blind to case, white space and punctuation, but not to operators or decimal points."""
    return digest(_PUNCTUATION.sub("", text.casefold()))


def digest(text: str) -> str:
    """A fixed hash of a text, as 32 hexadecimal digits."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def hashed_split(key: str, *, held_out: int = 20) -> str:
    """The split of a key where all come from one source: one in `held_out` is test, one validation, the rest train."""
    place = int(digest(f"split/{key}"), 16) % held_out
    return {0: "test", 1: "validation"}.get(place, "train")


def hold_out(train: list[str], test: list[str], count: int, what: str) -> dict[str, list[int]]:
    """Places of the rows of each split, from the keys of a training and a test set.

    Of the keys of `train` that are not in `test`, the `count` with the smallest hash are for validation; rows of
    `train` whose key is in `test` are in no split, as they are the leak from test into training.

    Raises:
        ValueError: no row is left for training; `what` names the data.
    """
    tested = set(test)
    free = sorted({key for key in train if key not in tested}, key=lambda key: digest(f"validation/{key}"))
    validation = set(free[:count])
    places: dict[str, list[int]] = {"train": [], "validation": [], "test": list(range(len(test)))}
    for place, key in enumerate(train):
        if key not in tested:
            places["validation" if key in validation else "train"].append(place)
    if not places["train"]:
        leaked = sum(key in tested for key in train)
        raise ValueError(
            f"{what}: {len(train)} rows, {leaked} of them also in the test set, and validation_rows {count} leave none "
            f"to train on; give more rows, or fewer validation_rows"
        )
    return places
