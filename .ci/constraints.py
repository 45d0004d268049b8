"""Prints the constraints for this Python: .ci/constraints.txt, but a torch of the range that it has stays.

python -m venv and a torch of one's own choice, then `make train VENV=FOLDER`: nothing here replaces that torch.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OF_TORCH = ("torch", "triton", "numpy", "setuptools")  # versions of torch bound the others


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def constraints(installed: str | None) -> str:
    """The lines, where that version of torch is installed, or none."""
    pinned = (ROOT / ".ci" / "constraints.txt").read_text()
    (oldest,) = re.findall(r'^\s+"torch>=([0-9.]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    (ours,) = re.findall(r"^torch==([0-9.]+)", pinned, re.MULTILINE)
    if installed is None or numbers(installed) < numbers(oldest) or installed.partition("+")[0] == ours:
        return pinned
    kept = [line for line in pinned.splitlines() if re.split(r"[=<>!]", line)[0] not in OF_TORCH]
    return "\n".join([*kept, f"torch=={installed}", ""])


def main() -> None:
    try:
        installed = metadata.version("torch")
    except metadata.PackageNotFoundError:
        installed = None
    text = constraints(installed)
    if installed and f"torch=={installed}" in text:
        print(f"torch {installed} stays", file=sys.stderr)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
