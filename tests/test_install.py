"""Packaging: a file left out of the wheel, or a silent decision on CUDA, breaks a user's machine but not this tree."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from dmpo.kernels.remask import extension_status

ROOT = Path(__file__).resolve().parents[1]


def run_setup(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs setup.py from the tree in a clean environment, so that the machine's own CUDA settings play no part."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DMPO_", "CUDA_", "TORCH_"))}
    return subprocess.run(
        [sys.executable, "setup.py", *command],
        cwd=ROOT,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_decision_on_cuda_is_printed() -> None:
    result = run_setup("--version", DMPO_CUDA="0")
    assert result.returncode == 0, result.stderr
    assert "CUDA sources left out: DMPO_CUDA=0" in result.stderr


def test_insisting_on_impossible_cuda_sources_is_an_error(tmp_path: Path) -> None:
    result = run_setup("--version", DMPO_CUDA="1", CUDA_HOME=str(tmp_path))
    assert result.returncode != 0
    why = "is not a CUDA build" if torch.version.cuda is None else "no CUDA toolkit found"
    assert re.search(f"DMPO_CUDA=1, but .*{why}", result.stderr), result.stderr


def test_an_unknown_wish_is_an_error() -> None:
    result = run_setup("--version", DMPO_CUDA="yes")
    assert result.returncode != 0
    assert "DMPO_CUDA must be 0, 1 or unset, got 'yes'" in result.stderr


def test_the_built_extension_tells_its_decision() -> None:
    built, reason = extension_status()
    assert built, reason
    assert re.fullmatch(r"built against torch \d+\.\d+\.\d+, with(out)? CUDA sources \(.+\)", reason), reason


def test_every_file_is_packaged_once(tmp_path: Path) -> None:
    """sdist and build_py against the tree: all modules, data and C++ sources, and kernels/ as dmpo.kernels alone."""
    metadata = tmp_path / "egg"
    metadata.mkdir()
    result = run_setup(
        "-q",
        "egg_info",
        f"--egg-base={metadata}",
        "build_py",
        f"--build-lib={tmp_path / 'lib'}",
        "sdist",
        f"-d{tmp_path}",
    )
    assert result.returncode == 0, result.stderr

    def files(folder: str, *suffixes: str) -> set[str]:
        found = (ROOT / folder).rglob("*")  # does not follow the link dmpo/kernels
        return {str(path.relative_to(ROOT)) for path in found if path.suffix in suffixes}

    modules = {path for path in files("dmpo", ".py") if not path.startswith("dmpo/kernels/")}
    kernels = files("kernels", ".py", ".json")
    data = files("dmpo/configs", ".yaml") | files("dmpo/assets", ".safetensors", ".json")
    assert modules
    assert kernels

    built = {str(path.relative_to(tmp_path / "lib")) for path in (tmp_path / "lib").rglob("*") if path.is_file()}
    assert built >= modules | data | {f"dmpo/{path}" for path in kernels}
    assert not {path for path in built if not path.startswith("dmpo/")}

    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        packed = [member.name.partition("/")[2] for member in tar if member.isfile()]
    assert len(packed) == len(set(packed))
    assert set(packed) >= modules | data | kernels | files("csrc", ".h", ".cpp", ".cu") | {"setup.py", "LICENSE"}
    assert not [path for path in packed if path.startswith("dmpo/kernels/")]


@pytest.mark.parametrize("target", ["help", "train", "test"])
def test_an_old_python_is_refused_before_any_work(target: str, tmp_path: Path) -> None:
    """`make` in a copy without an environment, with an interpreter that claims to be 3.9."""
    old = tmp_path / "python3.9"
    claim = "import sys; sys.version_info = (3, 9); sys.version = '3.9.18 (main)';"
    old.write_text(f'#!/bin/sh\n[ "$1" = -c ] || exit 99\nexec "{sys.executable}" -c "{claim} $2"\n')
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "setup.py"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "constraints.txt").touch()
    result = subprocess.run(
        ["make", target, f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    if target == "help":
        assert result.returncode == 0
        assert "make train" in result.stdout
        return
    assert result.returncode != 0
    assert f"dmpo needs Python 3.10 or newer, but {old} is 3.9.18" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_every_dependency_is_pinned() -> None:
    """What pyproject.toml asks for is fixed to one version for `make train` and `make test`."""
    text = (ROOT / "pyproject.toml").read_text()
    lists = re.findall(r"^(?:dependencies|dev) = \[$(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert len(lists) == 2
    asked = {name.lower() for block in lists for name in re.findall(r'^\s+"([A-Za-z0-9_-]+)', block, re.MULTILINE)}
    pins = re.findall(r"^([a-z0-9-]+)(==|<=)", (ROOT / ".ci" / "constraints.txt").read_text(), re.MULTILINE)
    assert asked <= {name for name, _ in pins}


def test_transformers_does_not_take_the_folder_for_the_hub_library() -> None:
    """From the root, `import kernels` finds this folder; a second copy would register every operator twice."""
    code = "import sys, transformers.integrations.hub_kernels, dmpo.kernels; print('kernels.launch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"
