"""Writes the page again while a run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .page import write_and_remark
from .run_files import FILES, read_run


def watch_runs(paths: Sequence[Path], output: Path | None, say: Callable[[str], None], *, seconds: float = 5.0) -> Path:
    """Write the page of runs whenever a file of theirs has changed, until all have written their summary.

    Args:
        say: takes the path of the page once, and each remark once.
        seconds: between two looks at the files.

    Raises:
        ValueError: as `write_page`; or a path is no folder of a run.
    """
    for path in paths:
        if path.is_file():
            raise ValueError(f"--watch goes with runs, and {path} is a file")
    said: set[str] = set()
    while True:
        before, start = _state(paths), time.monotonic()
        page, remarks = write_and_remark(paths, output)
        for line in (str(page), *remarks):
            if line not in said:
                said.add(line)
                say(line)
        if all(read_run(path, path.name).is_finished for path in paths):
            return page
        pause = max(seconds, 5 * (time.monotonic() - start))  # so that a large page does not keep a core busy
        time.sleep(pause)
        while _state(paths) == before:
            time.sleep(pause)


def _state(paths: Sequence[Path]) -> list[tuple[int, int] | None]:
    """Time and size of each file of the runs."""
    stats = [(path / name).stat() if (path / name).exists() else None for path in paths for name in FILES]
    return [None if stat is None else (stat.st_mtime_ns, stat.st_size) for stat in stats]
