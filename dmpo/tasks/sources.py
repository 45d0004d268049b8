"""Read the rows of a data set, from the hub through `datasets` or from a local file. Leave out the unreadable rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from .records import FORMATS, Record, check_format, read_table

log = logging.getLogger("dmpo")

S = TypeVar("S")
T = TypeVar("T")
_NAMED = 5  # the most rows that a warning names


def read_rows(
    source: str, split: str, columns: Mapping[tuple[str, ...], str], *, revision: str | None = None
) -> list[Record]:
    """The rows of one split, each with every column; a value that a row lacks is None.

    Args:
        source: the path of a .json, .jsonl, .parquet or .csv file, all of whose rows are the split; or a hub id
            `owner/name` or `owner/name:config`. A path is never a pattern.
        split: the split of a hub data set.
        columns: for each group of column names, a description for the message. One column of each group must exist.
        revision: commit, tag or branch of a hub data set.

    Raises:
        ValueError: the file or the data set does not exist, has another format or no rows, or lacks a column.
    """
    path = Path(source)
    if _is_file(path):
        if revision is not None and path.is_file():
            raise ValueError(
                f"revision {revision!r} needs a hub data set, but {source} is a file; omit revision or give a hub id"
            )
        rows = read_table(path)
    else:
        rows = _hub_rows(source, split, revision)
    if not rows:
        raise ValueError(f"data set {source} has no rows")
    for names, what in columns.items():
        if not any(name in rows[0] for name in names):
            raise ValueError(
                f"data set {source} needs a column {' or '.join(names)} ({what}), "
                f"got columns {', '.join(map(str, rows[0]))}"
            )
    return rows


def check_file(source: str) -> None:
    """Raise ValueError for a path of a file that does not exist or has another format. A hub id is not looked up."""
    if _is_file(Path(source)):
        check_format(Path(source))


def _is_file(path: Path) -> bool:
    """Whether a source is meant as a file, and not as a hub id."""
    return path.suffix.lower() in FORMATS or path.exists()


def read_each(rows: Sequence[S], source: str, read: Callable[[S], T], what: str = "row") -> list[T]:
    """`read` of each row. Rows that it refuses with a ValueError are left out; one warning counts and names them.

    Raises:
        ValueError: most rows are refused. The message names the source and the first refused row.
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
    except Exception as error:  # the hub's library, `datasets` and pyarrow raise exceptions of many classes
        raise ValueError(f"data set {source} cannot be loaded: {type(error).__name__}: {error}") from error
    return rows
