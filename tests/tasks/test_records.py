"""If these fail, a local data file is read stale, as a pattern of names, or not as what its name says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dmpo.tasks.records import read_json_records, read_table
from tests.tasks.data_files import Row, write

ROWS: list[Row] = [{"a": "x", "b": 'y "1", é'}, {"a": "two\nlines", "b": "p\u2028q"}]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet", ".JSONL"])
def test_formats(suffix: str, tmp_path: Path) -> None:
    path = Path(write(tmp_path / f"a{suffix.lower()}", ROWS)).rename(tmp_path / f"b{suffix}")
    assert read_table(path) == ROWS


@pytest.mark.parametrize(
    "name", ["a*.jsonl", "a[1].jsonl", "a?.csv", "{a,b}.json", "a**.parquet", "[a-z].csv", "%61.json"]
)
def test_a_path_is_the_file_of_that_name(name: str, tmp_path: Path) -> None:
    for other in ("a1.jsonl", "ab.jsonl", "a1.csv", "a.json", "a1.parquet", "b.csv"):
        write(tmp_path / other, [{"a": "another"}])
    with pytest.raises(ValueError, match="does not exist"):
        read_table(tmp_path / name)
    write(tmp_path / name, ROWS)
    assert read_table(tmp_path / name) == ROWS


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_a_file_that_changed_within_its_modification_time(suffix: str, tmp_path: Path) -> None:
    path = Path(write(tmp_path / f"a{suffix}", [{"a": "1"}]))
    time = path.stat().st_mtime_ns
    assert read_table(path) == [{"a": "1"}]
    write(path, [{"a": "2"}])
    os.utime(path, ns=(time, time))
    assert read_table(path) == [{"a": "2"}]


def test_rows_with_other_columns(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"a": 1}, {"b": [2]}, {}])
    nothing: Row = {"a": None, "b": None}
    assert read_table(tmp_path / "a.jsonl") == [nothing | {"a": 1}, nothing | {"b": [2]}, nothing]
    (tmp_path / "a.csv").write_text("a,b\n1\n\n,2\r\n3,4")
    assert read_table(tmp_path / "a.csv") == [{"a": "1", "b": None}, {"a": "", "b": "2"}, {"a": "3", "b": "4"}]


def test_long_fields(tmp_path: Path) -> None:
    """The csv module refuses fields over 128 KiB unless it is told otherwise."""
    import csv

    before = csv.field_size_limit()
    rows = [{"a": "x" * 300_000}]
    assert read_table(Path(write(tmp_path / "a.csv", rows))) == rows
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json"])
def test_latin_1(name: str, tmp_path: Path) -> None:
    path = Path(write(tmp_path / name, [{"a": "1"}, {"a": "2"}]))
    path.write_bytes(path.read_bytes().replace(b"2", "é".encode("latin-1")))
    line = {"a.jsonl": 2, "a.csv": 3, "a.json": 1}[name]
    with pytest.raises(ValueError, match=rf"file .*{name}, line {line}: byte 0xe9 is not UTF-8, .* save the file as"):
        read_table(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "x", r"must end in one of \.json, \.jsonl, \.parquet, \.csv"),
        ("a.jsonl", '{"a": 1}\n\n{"a": \n', "line 3: is no JSON"),
        ("a.jsonl", '{"a": 1}\n3', "record 1: must be a JSON object, got int"),
        ("a.json", '[\n{"a": 1},\n{"a": 2\n]', "line 4: is no JSON: Expecting ',' delimiter"),
        ("a.json", "[]", "holds no records"),
        ("a.json", "3", "holds no records"),
        ("a.json", "[" * 200_000, "line 1: is no JSON"),
        ("a.jsonl", "", "line 1: is no JSON|holds no records"),
        ("a.csv", "a,a\n1,2", "header names a column twice: a, a"),
        ("a.csv", "a,b\n1,2\n1,2,3", "row 1, which ends on line 3: has 3 values, the header 2 columns"),
        ("a.csv", 'a,b\n"1,2', "is no CSV"),
        ("a.parquet", "PAR1", "is no parquet file that can be read"),
    ],
)
def test_bad_files(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as refusal:
        read_table(tmp_path / name)
    assert name in str(refusal.value)
    assert len(str(refusal.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("held", [{"data": ROWS}, {"generations": ROWS, "gen_length": 8}])
def test_an_object_around_the_records(held: dict[str, Any], tmp_path: Path) -> None:
    import json

    path = tmp_path / "a.json"
    path.write_text("\ufeff" + json.dumps(held), encoding="utf-8")
    assert read_json_records(path) == (ROWS, held)
    path.write_text(json.dumps({"data": [1]}))
    assert read_json_records(path) == ([{"data": [1]}], {})
