"""Fails where a file names a folder of somebody's machine, such as a home: `python3 .ci/absolute_paths.py FILE ...`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

# A home or work folder of one machine. A preceding word or slash makes it a part of something else, as of an address.
_PATH = re.compile(r"(?<![\w./:$}-])/(?:home|root|Users|work|workspace|mnt|data)/[\w.-]+")


def absolute_paths(text: str) -> list[tuple[int, str]]:
    """Line numbers, from 1, and what stands there."""
    lines = enumerate(text.splitlines(), start=1)
    return [(number, path) for number, line in lines for path in _PATH.findall(line)]


def main(files: list[str]) -> int:
    complaints = [
        f"{file}:{number}: {path} is a path of one machine; write it relative to the repository"
        for file in files
        if Path(file).is_file()
        for number, path in absolute_paths(Path(file).read_text(errors="replace"))
    ]
    print(*complaints, sep="\n", end="\n" if complaints else "")
    return int(bool(complaints))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
