"""The installed versions, and whether dmpo's tests passed with them.

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
    """A set of versions with which the quick tests ran."""

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
    """The version in the package's metadata; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def installed_versions() -> dict[str, str]:
    """The versions of Python and of the installed packages of PACKAGES."""
    packages = {name: version for name in PACKAGES if (version := installed_version(name))}
    return {"python": platform.python_version(), **packages}


def whether_tested(installed: Mapping[str, str], sets: Sequence[VersionSet]) -> str:
    """One sentence that says whether these versions were tested, together or alone, and names the untested ones.

    The label of a build (+cpu, +cu130) does not matter. Of Python only the minor version counts.
    """
    installed_public = {name: _public(name, version) for name, version in installed.items()}
    tested: dict[str, list[str]] = {name: [] for name in installed_public}
    for version_set in sets:
        if version_set.failed:
            continue
        versions = {**version_set.versions, "python": version_set.python}
        set_public = {name: _public(name, version) for name, version in versions.items()}
        if all(set_public.get(name) == version for name, version in installed_public.items()):
            return f"yes: these versions together, on {version_set.date}"
        for name, tested_versions in tested.items():
            if name in set_public and set_public[name] not in tested_versions:
                tested_versions.append(set_public[name])
    untested = {name: version for name, version in installed_public.items() if version not in tested[name]}
    if not untested:
        return "each version was tested, but not all of them together"
    details = [f"{name} {version} ({', '.join(tested[name]) or 'none'} tested)" for name, version in untested.items()]
    return f"not with {'; not with '.join(details)}"


def _public(name: str, version: str) -> str:
    return ".".join(version.split(".")[:2]) if name == "python" else version.partition("+")[0]
