"""What did the parts say? Makes results.json and results.md of a folder of records."""

from __future__ import annotations

from pathlib import Path


def write(folder: Path, output: Path | None) -> int:
    return 0
