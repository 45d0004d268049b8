"""Where results come from: the checkout, its commit, and how a report names commit and versions. Needs no torch."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def git(root: Path, *arguments: str) -> str | None:
    """What a git command prints in `root`; None where it fails or git is not installed."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def short_commit(header: Mapping[str, Any]) -> str:
    """The commit of a results file, and whether the sources differed from it; "unknown" outside of a checkout."""
    if not header.get("commit"):
        return "unknown"
    return header["commit"][:9] + (" with changes" if header.get("dirty") else "")


def packages_text(header: Mapping[str, Any], names: Iterable[str]) -> str:
    """The versions of some packages of a results file, as a list in words. Packages without a version are left out."""
    versions = header.get("versions", {})
    return ", ".join(f"{name} {versions[name]}" for name in names if versions.get(name))
