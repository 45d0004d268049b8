"""Records of a local file of JSON, JSON lines, CSV or parquet, read whole and anew each time.

Nothing is cached, and a path is the file of that name: `datasets` would keep a table by path and modification time, and
would read `a[1].jsonl` as a pattern.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

Record = dict[str, Any]

FORMATS = (".json", ".jsonl", ".parquet", ".csv")
_LISTS = ("generations", "results", "samples", "data", "records")  # where a JSON object keeps its records


def read_table(path: Path) -> list[Record]:
    """The rows of a file whose name ends in one of FORMATS. Every row has every column, None where the file lacks it.

    A value of a CSV file is a text; a JSON file is read as in `read_json_records`.

    Raises:
        ValueError: no such file, another ending, a file that is not what its name says; names file and line.
    """
    check_format(path)
    kind = path.suffix.lower()
    if kind == ".parquet":
        return _parquet_rows(path)
    if kind == ".csv":
        return _csv_rows(path)
    records, _ = read_json_records(path)
    columns = list(dict.fromkeys(name for record in records for name in record))
    return [{name: record.get(name) for name in columns} for record in records]


def check_format(path: Path) -> None:
    """Raise ValueError unless the file exists and its name ends in one of FORMATS."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"data file {path} must end in one of {', '.join(FORMATS)}")
    if not path.is_file():
        raise ValueError(f"data file {path} does not exist")


def read_json_records(path: Path) -> tuple[list[Record], Record]:
    """The records of a file of JSON (a list, or an object with a list of them) or of JSON lines, whatever its name; and
    the object around them, empty where there is none.

    Raises:
        ValueError: the file cannot be read, or holds something that is no JSON object; names file, line or record.
    """
    text = _read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        value = _json_lines(path, text, whole=error)
    around: Record = {}
    if isinstance(value, dict):
        inner = next((value[name] for name in _LISTS if isinstance(value.get(name), list)), None)
        if inner is None or not all(isinstance(record, dict) for record in inner):
            value = [value]
        else:
            value, around = inner, value
    if not isinstance(value, list) or not value:
        raise ValueError(f"file {path} holds no records")
    for number, record in enumerate(value):
        if not isinstance(record, dict):
            raise ValueError(f"file {path}, record {number}: must be a JSON object, got {type(record).__name__}")
    return value, around


def _json_lines(path: Path, text: str, whole: Exception) -> list[Any]:
    """The value of each line; where not even the first is one, `whole` says what is wrong with the text as a whole."""
    values = []  # other ends of lines than \n may stand in a text
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                values.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                wrong, number = (error, number) if values else (whole, getattr(whole, "lineno", 1))
                reason = getattr(wrong, "msg", None) or wrong
                raise ValueError(f"file {path}, line {number}: is no JSON: {reason}") from error
    return values


def _csv_rows(path: Path) -> list[Record]:
    limit = csv.field_size_limit(sys.maxsize)  # of the process; a worked solution may be long
    rows: list[Record] = []
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise ValueError(f"file {path}: the header names a column twice: {', '.join(header)}")
        for fields in reader:
            if len(fields) > len(header):
                got = f"{len(fields)} values, the header {len(header)} columns"
                raise ValueError(f"file {path}, row {len(rows)}, which ends on line {reader.line_num}: has {got}")
            if fields:
                values: list[str | None] = [*fields, *[None] * (len(header) - len(fields))]
                rows.append(dict(zip(header, values, strict=True)))
    except csv.Error as error:
        raise ValueError(f"file {path}, line {reader.line_num}: is no CSV: {error}") from error
    finally:
        csv.field_size_limit(limit)
    return rows


def _parquet_rows(path: Path) -> list[Record]:
    import pyarrow
    from pyarrow import parquet

    try:
        with path.open("rb") as file:
            rows: list[Record] = parquet.read_table(file).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"file {path} is no parquet file that can be read: {error}") from error
    return rows


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"file {path} cannot be read: {error}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"file {path}, line {line}: byte {content[error.start]:#04x} is not UTF-8, the encoding that is read; save "
            "the file as UTF-8, for instance with iconv -f latin1 -t utf-8"
        ) from error
