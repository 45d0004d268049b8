"""Files and folders that are whole or absent: written aside, synced, renamed; checked by their digests when read."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

log = logging.getLogger("dmpo")

MANIFEST = "manifest.json"
ASIDE = ".partial-"  # begins the name of whatever is not whole yet, or not any more


def write_text(path: Path, text: str) -> None:
    """Replace a text file; whoever reads it, even after a power cut, finds the old text or the new one."""
    aside = path.with_name(f"{ASIDE}{path.name}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync(path.parent)


def publish(aside: Path, final: Path) -> None:
    """Give a folder its manifest (path below it -> blake2b digest), bring it safely to disk, and rename it to `final`.

    A folder that already has that name is discarded.
    """
    files = sorted(path for path in aside.rglob("*") if path.is_file())
    manifest = {path.relative_to(aside).as_posix(): digest(path) for path in files}
    (aside / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for path in [*aside.rglob("*"), aside]:
        sync(path)
    if final.exists():
        discard(final)
    aside.rename(final)
    sync(final.parent)
    sync(final.parent.parent)


def damage(folder: Path, required: Iterable[str] = ()) -> str | None:
    """What is wrong with a folder that `publish` made, or None: every file of its manifest is there and unchanged.

    A file that the manifest does not name counts as absent; `required` ones must be named.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(manifest, dict):
            return f"{MANIFEST} is no JSON object"
        if missing := sorted(set(required) - set(manifest)):
            return f"{MANIFEST} does not name {', '.join(missing)}"
        root = folder.resolve()
        for name, wanted in manifest.items():
            if PurePosixPath(name).is_absolute() or not (root / name).resolve().is_relative_to(root):
                return f"{MANIFEST} names {name!r}, which lies outside of the checkpoint"
            if not (root / name).is_file():
                return f"{name} is missing"
            if digest(root / name) != wanted:
                return f"{name} has changed or is cut short"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def discard(folder: Path) -> None:
    """Delete a folder; killed half-way, what is left has a name that nobody takes for whole. Failing is a warning."""
    aside = folder.with_name(f"{ASIDE}old-{folder.name}")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        shutil.rmtree(aside)
    except OSError as error:
        log.warning("%s could not be deleted: %s", folder, error)


def sweep(folder: Path) -> None:
    """Delete what killed runs left unfinished in a folder. The caller must be the folder's only writer."""
    for path in folder.glob(f"{ASIDE}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def digest(path: Path) -> str:
    """blake2b of a file's bytes, in hexadecimal."""
    state = hashlib.blake2b()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            state.update(chunk)
    return state.hexdigest()


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to disk. File systems that cannot sync folders are excused."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def is_write_failure(error: Exception) -> bool:
    """Whether the system refused to write (disk full, quota, no permission, input/output error).

    safetensors and tokenizers report that as exceptions of their own, which quote the system's error number.
    """
    return isinstance(error, OSError) or re.search(r"\(os error \d+\)", str(error)) is not None
