"""Builds the sources of csrc/ for tests: other flags, or CUDA sources on a CPU."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from torch.utils import cpp_extension

HERE = Path(__file__).parent
CSRC = HERE.parents[2] / "csrc"


def compiler() -> str:
    """g++, or a skip that says why."""
    found = shutil.which("g++")
    if found is None:
        pytest.skip("no g++ on this machine: csrc/ was not compiled for this test")
    return found


def build_operators(folder: Path, source: str, select: str, library: str, *flags: str) -> Path:
    """The library that registers torch.ops.`library` from one file of csrc/ (see operators.cpp); what to load."""
    target = folder / f"{library}.so"
    includes = [HERE, CSRC, *cpp_extension.include_paths()]
    command = [compiler(), "-std=c++20", "-shared", "-fPIC", "-Wall", "-Wno-unknown-pragmas", *flags]
    command += ["-DTORCH_TARGET_VERSION=0x020b000000000000"]  # as setup.py: torch 2.11
    command += [f'-DDMPO_SOURCE="{source}"', f"-DDMPO_SELECT={select}", f"-DDMPO_LIBRARY={library}"]
    command += [f"-I{path}" for path in includes] + [str(HERE / "operators.cpp"), "-o", str(target)]
    command += [f"-L{path}" for path in cpp_extension.library_paths()] + ["-ltorch_cpu"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target
