"""One writer for each folder: an advisory lock. The system releases it when the process ends for any reason."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("dmpo")

LOCK = ".lock"
PATIENCE = 5.0  # seconds; a launcher may start the next process before the killed one has ended


class FolderLock:
    """Locks `folder/.lock` (flock). The file names host and process.

    Raises:
        ValueError: another process, or another FolderLock of this process, has the lock.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor: int | None = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        deadline = time.monotonic() + PATIENCE
        while not self._take():
            if time.monotonic() > deadline:
                owner = os.pread(self._descriptor, 200, 0).decode(errors="replace").strip() or "another process"
                self.release()
                raise ValueError(
                    f"output_dir {folder} is being written by {owner}; wait for it to end, or give another output_dir"
                )
            time.sleep(0.2)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def release(self) -> None:
        """Release the lock. The file stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _take(self) -> bool:
        if fcntl is None:
            log.warning("this system has no file locks, so two runs could write into one output_dir")
            return True
        assert self._descriptor is not None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
                return False
            log.warning("this file system has no locks (%s), so two runs could write into one output_dir", error)
        return True


def is_locked(folder: Path) -> bool:
    """Whether a process has the lock of a folder now. False where nothing can tell: no lock file, or no locks here."""
    if fcntl is None or not (folder / LOCK).exists():
        return False
    descriptor = os.open(folder / LOCK, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
    finally:
        os.close(descriptor)
    return False
