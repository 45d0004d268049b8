"""Reading a file of JSON lines that another process may be writing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

Kept = TypeVar("Kept")


def read_lines(path: Path, keep: Callable[[int, dict[str, Any]], Kept]) -> tuple[list[Kept], str | None]:
    """`keep(offset, object)` of every line, and a complaint about lines that are no JSON objects; these are left out.

    offset: of the line in bytes, for `read_at`. An absent file has no lines.
    """
    kept: list[Kept] = []
    broken: list[int] = []
    offset, ended = 0, True
    if not path.exists():
        return kept, None
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            value = _object(line)
            if value is not None:
                kept.append(keep(offset, value))
            elif line.strip():
                broken.append(number)
                ended = line.endswith(b"\n")
            offset += len(line)
    if not broken:
        return kept, None
    if len(broken) == 1 and not ended:
        return kept, f"the last line of {path} is not whole, and is left out"
    count = f"{len(broken)} lines are no JSON objects, the first is line {broken[0]}"
    return kept, f"{path}: {count if len(broken) > 1 else f'line {broken[0]} is no JSON object'}; left out"


def read_at(path: Path, offsets: Iterable[int]) -> list[dict[str, Any] | None]:
    """The objects of the lines at these offsets; None where the file has changed since."""
    values = []
    with path.open("rb") as file:
        for offset in offsets:
            file.seek(offset)
            values.append(_object(file.readline()))
    return values


def read_object(path: Path) -> tuple[dict[str, Any], str | None]:
    """The JSON object of a whole file, and a complaint if the file has none; an absent file is an empty object."""
    if not path.exists():
        return {}, None
    value = _object(path.read_bytes())
    return (value, None) if value is not None else ({}, f"{path} is no JSON object, and is left out")


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line.decode(errors="replace"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
