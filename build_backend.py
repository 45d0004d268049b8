"""The build back end: setuptools', which asks for torch only where the Python that is built for has none.

The extension uses libtorch's stable interface, so any torch of the range serves to build it. pip builds in an
environment of its own, in which the torch that is already installed would be hidden and a second one downloaded. So
that one is looked up, and a download is asked for only where there is none: on a Python without torch, and by front
ends (uv, build) whose environments do not say for which Python they build.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import subprocess
import sys
from types import ModuleType

import setuptools
from setuptools import build_meta
from setuptools.build_meta import (  # the hooks that stay as they are
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

if tuple(int(number) for number in re.findall(r"\d+", setuptools.__version__)[:2]) < (70, 1):
    raise SystemExit(
        f"dmpo: setuptools {setuptools.__version__} cannot build wheels by itself. Install a newer one: "
        f"{sys.executable} -m pip install --upgrade 'setuptools>=70.1' ninja"
    )

OLDEST_TORCH = (2, 11)  # of pyproject.toml; the first whose stable interface has all that csrc/ calls


def is_old(version: str) -> bool:
    """Whether a version of torch is below OLDEST_TORCH."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is None or tuple(int(number) for number in numbers.groups()) < OLDEST_TORCH


def outside_folders() -> list[str]:
    """What this Python imports from outside a build environment, which pip hides by way of PYTHONPATH."""
    command = [sys.executable, "-E", "-c", "import sys; print(*sys.path, sep='\\n')"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=sys.prefix).stdout
    return [folder for folder in printed.splitlines() if folder and folder not in sys.path]


def find_torch() -> tuple[ModuleType | None, str]:
    """torch, or None and why there is none; the one that is hidden by a build environment where no other is seen."""
    for folders in ([], outside_folders()):
        before = list(sys.path)
        sys.path += folders
        try:
            torch = importlib.import_module("torch")
        except ImportError as error:
            sys.path[:] = before
            reason = f"torch cannot be imported ({error})"
            continue
        if is_old(torch.__version__):
            return None, f"torch {torch.__version__} is older than {'.'.join(map(str, OLDEST_TORCH))}"
        return torch, ""
    return None, reason


def _torch_requirement() -> list[str]:
    installed = importlib.metadata.distributions(name="torch", path=[*sys.path, *outside_folders()])
    if any(not is_old(distribution.version) for distribution in installed):
        return []
    return [f"torch>={'.'.join(map(str, OLDEST_TORCH))}"]


def get_requires_for_build_wheel(config_settings: dict | None = None) -> list[str]:
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_torch_requirement()]


def get_requires_for_build_editable(config_settings: dict | None = None) -> list[str]:
    return [*build_meta.get_requires_for_build_editable(config_settings), *_torch_requirement()]
