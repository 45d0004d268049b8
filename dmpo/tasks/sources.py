"""Rows of a data set: from the hub, or from a local file, through `datasets`, which is imported at the first use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}


def read_rows(source: str, split: str, columns: Sequence[str], *, revision: str | None = None) -> Any:
    """The rows of one split, as a `datasets.Dataset` that has at least the columns named.

    Args:
        source: the path of a .json, .jsonl, .parquet or .csv file, whose rows are then all of the split; or a hub id
            `owner/name`, or `owner/name:config`.
        split: of a hub data set.
        revision: commit, tag or branch of a hub data set.

    Raises:
        ValueError: no such file or data set, another format, no rows, or a column that is missing.
    """
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    path = Path(source)
    if path.suffix.lower() in FORMATS:
        if not path.is_file():
            raise ValueError(f"data file {source} does not exist")
        if revision is not None:
            raise ValueError(f"revision {revision!r} is of a hub data set, {source} is a file")
        wanted: dict[str, Any] = {"path": FORMATS[path.suffix.lower()], "data_files": str(path.resolve())}
        split = "train"  # what `datasets` calls the rows of a file
    elif path.exists():
        raise ValueError(f"data file {source} must end in one of {', '.join(FORMATS)}")
    else:
        name, _, config = source.partition(":")
        wanted = {"path": name, "name": config or None, "revision": revision}
    try:
        rows = load_dataset(**wanted, split=split)
    except Exception as error:  # from the hub's library, `datasets`, pyarrow: all mean that there is no data
        raise ValueError(f"data set {source} cannot be loaded: {type(error).__name__}: {error}") from error
    if missing := [column for column in columns if column not in rows.column_names]:
        raise ValueError(f"data set {source} has columns {', '.join(rows.column_names)}, but no {', '.join(missing)}")
    if not len(rows):
        raise ValueError(f"data set {source} has no rows")
    return rows
