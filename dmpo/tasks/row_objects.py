"""Rows that a script gives as an object: a `datasets.Dataset`, a list of dicts, or anything that is used as one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol

from .records import Record

_WANTED = "a datasets.Dataset, a list of dicts, or an object with a length whose items 0, 1, … are dicts"


class RowObject(Protocol):
    """What `train_dataset` and `eval_dataset` must be: rows by their number, each with the values by column."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


def read_row_object(rows: RowObject, name: str) -> list[Record]:
    """All rows, each with every column; a value that a row lacks is None.

    Raises:
        TypeError: `rows` is no such object, or a row is no dict. `name` names the object in the message.
        ValueError: there are no rows.
    """
    kind = type(rows).__name__
    if isinstance(rows, Mapping):
        keys = ", ".join(map(str, list(rows)[:5]))
        raise TypeError(f"{name} must be {_WANTED}, got {kind} with the keys {keys}; if these are splits, choose one")
    if isinstance(rows, str | bytes) or not (hasattr(rows, "__len__") and hasattr(rows, "__getitem__")):
        raise TypeError(f"{name} must be {_WANTED}, got {kind}")
    if not len(rows):
        raise ValueError(f"{name} has no rows")
    try:
        records = list(rows.to_list() if hasattr(rows, "to_list") else (rows[index] for index in range(len(rows))))
    except (KeyError, IndexError, TypeError) as error:  # a table of pandas has a length, but its items are columns
        raise TypeError(f"{name} must be {_WANTED}, got {kind} without an item 0: {error!r}") from error
    for number, record in enumerate(records):
        if not isinstance(record, Mapping) or not all(isinstance(column, str) for column in record):
            raise TypeError(f"{name}, row {number}: must be a dict with columns for keys, got {record!r:.80}")
    columns = list(dict.fromkeys(column for record in records for column in record))
    return [{column: record.get(column) for column in columns} for record in records]


def describe_row_object(rows: RowObject, name: str) -> str:
    """The number of rows and a digest of their values, to recognise the rows when a run is resumed.

    A value that JSON cannot write counts by its type alone. Raises as `read_row_object` does.
    """
    records, state = read_row_object(rows, name), hashlib.blake2b(digest_size=8)
    for record in records:
        state.update(json.dumps(record, sort_keys=True, default=lambda value: type(value).__name__).encode() + b"\n")
    return f"{len(records)} rows, digest {state.hexdigest()}"
