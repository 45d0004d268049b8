"""The setting of a part, and its records: one JSON line for each figure or check."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:  # the command itself starts and reports without torch
    import torch

START, END = "start", "end"  # names of a file's first and last record
RESERVED = ("name", "ok", "at", START, END)


@dataclass(frozen=True)
class GpuSetting:
    """device: where tensors live; rehearse: small sizes, to see that everything runs; deadline: on time.monotonic().

    seed: of random inputs. A run has a new one, and the report names it.
    """

    device: torch.device
    rehearse: bool
    deadline: float
    seed: int = 0

    def remaining(self) -> float:
        """Seconds until the process of this part is ended. A part leaves out what it cannot finish, and notes it."""
        return self.deadline - time.monotonic()


class Note(Protocol):
    """Writes a record at once, so that a later crash loses none."""

    def __call__(self, name: str, *, ok: bool | None = None, **values: Any) -> None:
        """name: of the figure or check, once a part. ok: whether a check passed, None for a figure.

        values: numbers, texts, short lists. A key ends in its unit (`device_ms`, `peak_gb`, `tokens_per_s`): records
        that have the same keys become one table of the report. A torch scalar counts as its number.
        """


class FileNote:
    """A `Note` that appends to the part's file of records, and prints one line."""

    def __init__(self, path: Path, part: str, lines: TextIO = sys.stdout) -> None:
        self.file = path.open("a", encoding="utf-8")
        self.lines, self.part, self.begun = lines, part, time.monotonic()
        self.names: set[str] = set()
        self.failed: list[str] = []

    def __call__(self, name: str, *, ok: bool | None = None, **values: Any) -> None:
        if name in self.names or name in (START, END):
            raise ValueError(f"name: the part {self.part} has noted {name!r} already; want a name of its own")
        if reserved := [key for key in values if key in RESERVED]:
            raise ValueError(f"{name}: the keys {', '.join(reserved)} are taken; want other keys")
        self.names.add(name)
        if ok is not None:
            ok = bool(ok)
        if ok is False:
            self.failed.append(name)
        values = {key: plain(value) for key, value in values.items()}
        self.write({"name": name, "ok": ok, "at": round(time.monotonic() - self.begun, 2), **values})
        mark = {True: "ok", False: "FAIL", None: ""}[ok]
        shown = ", ".join(f"{key} {short(value)}" for key, value in values.items())
        print(f"{mark:4} {self.part:9} {name}{': ' if shown else ''}{shown}", file=self.lines, flush=True)

    def write(self, record: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(record, allow_nan=False) + "\n")
        self.file.flush()


def plain(value: Any) -> Any:
    """`value` for JSON, which has no infinities and NaN: these become texts."""
    if hasattr(value, "item") and callable(value.item):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(inner) for inner in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def short(value: Any) -> str:
    """A value as a line or a table shows it: four digits of a number."""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        return f"{value:,}"
    if isinstance(value, list):
        return "[" + ", ".join(map(short, value)) + "]"
    return str(value)


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a file; none if there is no file. A last line that was cut off is left out."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    records = []
    for number, line in enumerate(lines):
        try:
            records.append(json.loads(line))
        except ValueError:
            if number + 1 < len(lines):
                raise ValueError(
                    f"{path}: line {number + 1} is no JSON; delete the file to run the part again"
                ) from None
    return records
