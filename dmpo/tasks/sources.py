"""Rows of a data set: from the hub through `datasets`, or from a local file; and which of them can be read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from .records import FORMATS, Record, read_table

log = logging.getLogger("dmpo")

S = TypeVar("S")
T = TypeVar("T")
_NAMED = 5  # rows that a warning names


def read_rows(
    source: str, split: str, columns: Mapping[tuple[str, ...], str], *, revision: str | None = None
) -> list[Record]:
    """The rows of one split, each with every column; None where a row lacks one.

    Args:
        source: the path of a .json, .jsonl, .parquet or .csv file, whose rows are then all of the split; or a hub id
            `owner/name`, or `owner/name:config`. A path is the file of that name, never a pattern.
        split: of a hub data set.
        columns: what must be there, and for the message what is read from it; one of the names of a key is enough.
        revision: commit, tag or branch of a hub data set.

    Raises:
        ValueError: no such file or data set, another format, no rows, or a column that is missing.
    """
    path = Path(source)
    if path.suffix.lower() in FORMATS or path.exists():
        if revision is not None and path.is_file():
            raise ValueError(f"revision {revision!r} is of a hub data set, {source} is a file")
        rows = read_table(path)
    else:
        rows = _hub_rows(source, split, revision)
    if not rows:
        raise ValueError(f"data set {source} has no rows")
    for names, what in columns.items():
        if not any(name in rows[0] for name in names):
            raise ValueError(
                f"data set {source} has columns {', '.join(map(str, rows[0]))}, but no {' or '.join(names)}: "
                f"it would be read as {what}"
            )
    return rows


def read_each(rows: Sequence[S], source: str, read: Callable[[S], T], what: str = "row") -> list[T]:
    """`read` of each row, less those that it refuses with a ValueError: they are left out, and one warning counts and
    names them.

    Raises:
        ValueError: most rows are refused; names the source and the first of them.
    """
    values: list[T] = []
    refused: list[str] = []
    for number, row in enumerate(rows):
        try:
            values.append(read(row))
        except ValueError as error:
            refused.append(f"{what} {number}: {error}")
    if not refused:
        return values
    count = f"{len(refused)} of {len(rows)} {what}s cannot be read"
    if 2 * len(refused) > len(rows):
        raise ValueError(f"{source}: {count}. The first is {refused[0]}")
    more = f"; and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
    named = "; ".join(refused[:_NAMED])
    log.warning("%s: %s and are left out, counted from 0: %s%s", source, count, named, more)
    return values


def _hub_rows(source: str, split: str, revision: str | None) -> list[Record]:
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    name, _, config = source.partition(":")
    try:
        rows: list[Record] = load_dataset(path=name, name=config or None, revision=revision, split=split).to_list()
    except Exception as error:  # from the hub's library, `datasets`, pyarrow: all mean that there is no data
        raise ValueError(f"data set {source} cannot be loaded: {type(error).__name__}: {error}") from error
    return rows
