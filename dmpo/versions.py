"""Which versions are installed, and whether dmpo's tests passed with them.

`make test-versions` runs the quick tests in several sets of versions and writes tested_versions.json beside this file.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

TESTED_VERSIONS = Path(__file__).with_name("tested_versions.json")
PACKAGES = ("torch", "triton", "transformers", "accelerate", "peft")


@dataclass(frozen=True)
class VersionSet:
    """Versions in which the quick tests ran together."""

    name: str
    date: str
    python: str
    versions: dict[str, str]
    passed: int
    failed: int
    skipped: int


def recorded_sets(path: Path = TESTED_VERSIONS) -> list[VersionSet]:
    return [VersionSet(**fields) for fields in json.loads(path.read_text())]


def installed_version(package: str) -> str | None:
    """As the package's metadata name it, or None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def installed_versions() -> dict[str, str]:
    """Of Python and PACKAGES, those that are installed."""
    packages = {name: version for name in PACKAGES if (version := installed_version(name))}
    return {"python": platform.python_version(), **packages}


def whether_tested(installed: Mapping[str, str], sets: Sequence[VersionSet]) -> str:
    """One sentence: whether these versions were tested, together or each alone, and which were not.

    A build's label (+cpu, +cu130) does not matter. Of Python, the minor version counts.
    """
    passed = [tested for tested in sets if tested.failed == 0]
    here = {name: _public(name, version) for name, version in installed.items()}
    known: dict[str, list[str]] = {name: [] for name in here}
    for tested in passed:
        there = {name: _public(name, version) for name, version in {**tested.versions, "python": tested.python}.items()}
        if all(there.get(name) == version for name, version in here.items()):
            return f"yes: these versions together, on {tested.date}"
        for name, seen in known.items():
            if name in there and there[name] not in seen:
                seen.append(there[name])
    untested = {name: version for name, version in here.items() if version not in known[name]}
    if not untested:
        return "each version was tested, but not all of them together"
    told = [f"{name} {version} ({', '.join(known[name]) or 'none'} tested)" for name, version in untested.items()]
    return f"not with {'; not with '.join(told)}"


def _public(name: str, version: str) -> str:
    return ".".join(version.split(".")[:2]) if name == "python" else version.partition("+")[0]
