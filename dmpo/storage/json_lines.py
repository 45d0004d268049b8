"""A growing file with one JSON object on each line. It survives a kill in the middle of a line, and a full disk."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

log = logging.getLogger("dmpo")


class JsonLines:
    """The lines of one file. Each object has `step`, and steps never decrease.

    Numbers that are not finite are written as null, because JSON has no word for them. If the disk refuses lines, they
    stay in memory, and are written before the next ones.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unwritten = b""

    def append(self, *objects: dict[str, Any]) -> None:
        """Write objects as lines. If the disk refuses them, a warning is logged."""
        for value in objects:
            self._unwritten += json.dumps(finite_or_none(value), allow_nan=False).encode() + b"\n"
        try:
            self._write()
        except OSError as error:
            log.warning("%s could not be written (%s); the lines will be written with the next ones", self.path, error)

    def sync(self) -> None:
        """Sync every line to disk.

        Raises:
            OSError: the disk refuses the lines.
        """
        self._write()
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    def cut(self, step: int, until: Callable[[dict[str, Any]], bool] = lambda line: False) -> int:
        """Delete the lines after `step`, and an incomplete last line. The bytes before them do not change.

        The first line for which `until` is true is deleted, too, and all after it.

        Returns the step of the last line that remains; 0 without lines.
        """
        end, last = 0, 0
        for line, value in _whole_lines(self.path):
            if value["step"] > step or until(value):
                break
            end, last = end + len(line), value["step"]
        if self.path.exists():
            os.truncate(self.path, end)
        return last

    def read(self) -> list[dict[str, Any]]:
        """The objects of the file, without an incomplete last line."""
        return [value for _, value in _whole_lines(self.path)]

    def _write(self) -> None:
        if not self._unwritten:
            return
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            end = os.fstat(descriptor).st_size
            remaining = self._unwritten
            try:
                while remaining:
                    remaining = remaining[os.write(descriptor, remaining) :]
            except OSError:
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)
        self._unwritten = b""


def _whole_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """The lines up to the first that is no whole JSON object with a step, as bytes and as objects."""
    lines = []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        try:
            value = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            break
        if not isinstance(value, dict) or not isinstance(value.get("step"), int):
            break
        lines.append((line, value))
    return lines


def finite_or_none(value: Any) -> Any:
    """A JSON value in which None replaces every number that is not finite."""
    if isinstance(value, dict):
        return {key: finite_or_none(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
