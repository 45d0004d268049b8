"""The CUDA build of dmpo._C without a GPU: compiled for three architectures, linked, imported; nothing spilled.

Runs where nvcc is found. If the torch at hand is not a CUDA build, one is installed into a temporary environment
(some 6 GB, removed afterwards).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
CUDA_TORCH = "torch==2.14.1"
NEEDED_GB = 12
ARCHITECTURES = ("8.0", "9.0", "10.0")
KERNELS = 4  # unmask and revoke, float and double
ABSENT = re.compile("No matching distribution|Could not find a version|connection|name resolution|unreachable", re.I)
IMPORT = """
import importlib.util, sys, torch
spec = importlib.util.spec_from_file_location("dmpo._C", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert module.build_info()["cuda"], module.build_info()
for name in ("remask_", "revoke_"):
    for key in ("CPU", "CUDA"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"dmpo::{name}", key), (name, key)
print("registered")
"""


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def workshop() -> Iterator[Path]:
    """An empty folder with room for torch, gone after the test."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    if not (shutil.which("nvcc") or shutil.which("nvcc", path=str(Path(named) / "bin"))):
        pytest.skip("no nvcc on this machine: the CUDA sources were not compiled")
    with tempfile.TemporaryDirectory(prefix="dmpo-cuda-") as folder:
        free = shutil.disk_usage(folder).free / 1e9
        if torch.version.cuda is None and free < NEEDED_GB:
            pytest.skip(f"a CUDA build of torch needs {NEEDED_GB} GB of disk, {free:.0f} GB are free")
        yield Path(folder)


def cuda_python(workshop: Path) -> Path:
    """A Python whose torch is a CUDA build: this one, or that of a new environment."""
    if torch.version.cuda is not None:
        return Path(sys.executable)
    venv = workshop / "venv"
    assert run(sys.executable, "-m", "venv", venv).returncode == 0
    python = venv / "bin" / "python"
    pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-compile", "--no-cache-dir")
    done = run(*pip, CUDA_TORCH, "setuptools", "ninja")
    if done.returncode != 0 and ABSENT.search(done.stdout):
        pytest.skip(f"pip cannot install {CUDA_TORCH} here: {done.stdout.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stdout[-3000:]
    return python


def test_compiles_links_and_registers_without_spills(workshop: Path) -> None:
    python = cuda_python(workshop)
    tree = workshop / "tree"
    (tree / "dmpo").mkdir(parents=True)
    for name in ("setup.py", "build_backend.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in ("csrc", "kernels"):
        shutil.copytree(ROOT / name, tree / name)
    built = run(
        *(python, "setup.py", "build_ext", "--inplace"),
        cwd=tree,
        DMPO_CUDA="1",
        TORCH_CUDA_ARCH_LIST=";".join(ARCHITECTURES),
        NVCC_APPEND_FLAGS="-Xptxas -v",
    )
    assert built.returncode == 0, built.stdout[-4000:]
    for architecture in ARCHITECTURES:
        target = f"for 'sm_{architecture.replace('.', '')}'"
        assert built.stdout.count(target) >= KERNELS, f"ptxas compiled too few kernels {target}"
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", built.stdout)
    assert len(spills) == KERNELS * len(ARCHITECTURES)
    assert set(spills) == {("0", "0")}

    (library,) = (tree / "dmpo").glob("_C*.so")
    imported = run(python, "-c", IMPORT, library)
    assert imported.returncode == 0, imported.stdout
    assert imported.stdout.strip().endswith("registered")
