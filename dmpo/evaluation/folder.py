"""The folder of an evaluation: a fingerprint of what is evaluated, and a line for each finished completion."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..models.files import read_json
from ..storage.json_lines import JsonLines
from ..storage.lock import LOCK
from ..storage.whole_files import ASIDE, write_text

FINGERPRINT, PARTS = "evaluation.json", "parts"
Key = tuple[str, int, str, int, int]  # task, gen_length, decoder, index, sample


def line_key(line: Mapping[str, Any]) -> Key:
    """The completion that a line describes."""
    return line["task"], line["gen_length"], line["decoder"], line["index"], line["sample"]


def check_folder(folder: Path) -> None:
    """Raise ValueError if a folder is a file, or has files that are no evaluation."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir {folder} is a file; give the path of a folder")
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    used = [name for name in names if name != LOCK and not name.startswith(ASIDE)]
    if used and FINGERPRINT not in used:
        raise ValueError(
            f"output_dir {folder} is not empty and holds no evaluation, as it has no {FINGERPRINT}; give another folder"
        )


def open_folder(folder: Path, fingerprint: dict[str, Any]) -> None:
    """Write the fingerprint of a new evaluation, or compare it with the fingerprint of the evaluation to continue.

    Each key of `fingerprint["tasks"]` must agree where both have it; so tasks can be added.

    Raises:
        ValueError: the folder has the results of another evaluation; the message says what differs.
    """
    path = folder / FINGERPRINT
    if path.exists():
        before = read_json(path)
        old, new = _flat(before), _flat(fingerprint)
        known = set(before.get("tasks", {}))
        for key in sorted(old.keys() | new.keys()):
            if key[0] == "tasks" and (key[1] not in known or key[1] not in fingerprint["tasks"]):
                continue
            if old.get(key) != new.get(key):
                raise ValueError(
                    f"output_dir {folder} holds results of another evaluation: {'.'.join(key)} was "
                    f"{_short(old.get(key))} and is now {_short(new.get(key))}; "
                    "give another output_dir"
                )
        fingerprint = fingerprint | {"tasks": before.get("tasks", {}) | fingerprint["tasks"]}
    (folder / PARTS).mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(fingerprint, indent=1) + "\n")


def read_parts(folder: Path) -> dict[Key, dict[str, Any]]:
    """The completions of all ranks that are on disk; a line cut short by a kill counts as absent."""
    lines: dict[Key, dict[str, Any]] = {}
    for path in sorted((folder / PARTS).glob("rank-*.jsonl")):
        for line in JsonLines(path).read():
            lines.setdefault(line_key(line), line)
    return lines


class RankLines:
    """The lines of one rank, counted by `step`; they are in the file when `append` returns, unless the disk is full."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._lines = JsonLines(folder / PARTS / f"rank-{rank}.jsonl")
        self._count = self._lines.cut(sys.maxsize)

    def append(self, *lines: dict[str, Any]) -> None:
        self._lines.append(*({"step": self._count + i, **line} for i, line in enumerate(lines, 1)))
        self._count += len(lines)

    def sync(self) -> None:
        """Raises OSError if the lines cannot be written."""
        self._lines.sync()


def _flat(value: Any, *path: str) -> dict[tuple[str, ...], Any]:
    if isinstance(value, dict) and value:
        return {key: inner for name, item in value.items() for key, inner in _flat(item, *path, str(name)).items()}
    return {path: value}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
