"""Writes the page again while a run goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .page import write_and_remark
from .run_files import FILES, read_run

log = logging.getLogger("dmpo")


def watch_runs(
    paths: Sequence[Path | str],
    output: Path | str | None = None,
    *,
    written: Callable[[Path], None] = lambda _: None,
    seconds: float = 5.0,
) -> Path:
    """Write the page of runs whenever a file of theirs has changed, until all are finished or Ctrl-C; return its path.

    A run is finished when it has written its summary.

    Args:
        paths, output: as of `write_page`, but no files of results.
        written: called with the path when the page is there for the first time.
        seconds: between two looks at the files.

    Raises:
        ValueError: as `write_page`; or a path is a file.
    """
    folders = [Path(path) for path in paths]
    for folder in folders:
        if folder.is_file():
            raise ValueError(f"--watch goes with runs, and {folder} is a file")
    said: set[str] = set()
    page: Path | None = None
    while True:
        try:
            before, start = _state(folders), time.monotonic()
            first = page is None
            page, remarks = write_and_remark(folders, None if output is None else Path(output))
            if first:
                written(page)
            for remark in remarks:
                if remark not in said:
                    log.warning("%s", remark)
                said.add(remark)
            if all(read_run(folder, folder.name).is_finished for folder in folders):
                return page
            pause = max(seconds, 5 * (time.monotonic() - start))  # so that a large page does not keep a core busy
            time.sleep(pause)
            while _state(folders) == before:
                time.sleep(pause)
        except KeyboardInterrupt:
            if page is None:
                raise
            return page


def _state(folders: Sequence[Path]) -> list[tuple[int, int] | None]:
    """Time and size of each file of the runs."""
    paths = [folder / name for folder in folders for name in FILES]
    stats = [path.stat() if path.exists() else None for path in paths]
    return [None if stat is None else (stat.st_mtime_ns, stat.st_size) for stat in stats]
