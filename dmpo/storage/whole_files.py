"""Files and folders that are whole or absent: written under another name, synced, then renamed. Digests check them."""

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
ASIDE = ".partial-"  # the prefix of names of files and folders that are not whole


def write_text(path: Path, text: str) -> None:
    """Replace a text file. A reader sees the old text or the new one, even after a power cut."""
    aside = path.with_name(f"{ASIDE}{path.name}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync(path.parent)


def share(files: Iterable[Path], like: Path) -> None:
    """Give files the mode of a file that Python made. safetensors 0.8 lets their owner alone read what it writes."""
    for path in files:
        shutil.copymode(like, path)


def publish(aside: Path, final: Path) -> None:
    """Write a folder's manifest (relative path -> blake2b digest), sync the folder to disk, and rename it to `final`.

    If `final` exists already, it is discarded.
    """
    files = sorted(path for path in aside.rglob("*") if path.is_file())
    manifest = {path.relative_to(aside).as_posix(): file_digest(path) for path in files}
    (aside / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    share(files, aside / MANIFEST)
    for path in [*aside.rglob("*"), aside]:
        sync(path)
    if final.exists():
        discard(final)
    aside.rename(final)
    sync(final.parent)
    sync(final.parent.parent)


def damage(folder: Path, required: Iterable[str] = ()) -> str | None:
    """The damage of a folder that `publish` wrote; None if every file of its manifest exists and is unchanged.

    The manifest must name the `required` files. A file that it does not name counts as absent.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(manifest, dict):
            return f"{MANIFEST} is not a JSON object"
        if missing := sorted(set(required) - set(manifest)):
            return f"{MANIFEST} does not name {', '.join(missing)}"
        root = folder.resolve()
        for name, recorded_digest in manifest.items():
            if PurePosixPath(name).is_absolute() or not (root / name).resolve().is_relative_to(root):
                return f"{MANIFEST} names {name!r}, which is outside of the checkpoint"
            if not (root / name).is_file():
                return f"{name} is missing"
            if file_digest(root / name) != recorded_digest:
                return f"{name} has changed or is incomplete"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def discard(folder: Path) -> None:
    """Delete a folder. It is renamed first, so that a half-deleted folder never looks whole. A failure is logged."""
    aside = folder.with_name(f"{ASIDE}old-{folder.name}")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        shutil.rmtree(aside)
    except OSError as error:
        log.warning("%s could not be deleted: %s", folder, error)


def delete_leftovers(folder: Path) -> None:
    """Delete the unfinished files and folders of killed runs. The caller must be the only writer of `folder`."""
    for path in folder.glob(f"{ASIDE}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """The blake2b digest of a file's bytes, in hexadecimal."""
    state = hashlib.blake2b()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            state.update(chunk)
    return state.hexdigest()


def sync(path: Path) -> None:
    """Sync a file, or the names in a folder, to disk. File systems that cannot sync folders are accepted."""
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

    safetensors and tokenizers raise exceptions of their own for this; the message quotes the system's error number.
    """
    return isinstance(error, OSError) or re.search(r"\(os error \d+\)", str(error)) is not None
