"""Packaging: a file left out of the wheel, or a silent decision on CUDA, breaks a user's machine but not this tree."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from dmpo.kernels.remask import extension_status

ROOT = Path(__file__).resolve().parents[1]


def run_setup(*command: str, before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs setup.py from the tree in a clean environment, so that the machine's own CUDA settings play no part.

    `before` is Python to run first, in the same process.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DMPO_", "CUDA_", "TORCH_"))}
    run = f"import runpy, sys; sys.argv = ['setup.py', *{list(command)}]\n{before}\n"
    return subprocess.run(
        [sys.executable, "-c", f"{run}runpy.run_path('setup.py', run_name='__main__')"],
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


def script(path: str) -> ModuleType:
    """A script of the tree as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WITHOUT_TORCH = "sys.modules['torch'] = None  # every import of it fails"


def test_without_torch_the_extension_is_left_out_and_a_message_has_the_command() -> None:
    result = run_setup("--version", before=WITHOUT_TORCH)
    assert result.returncode == 0, result.stderr
    assert "dmpo._C is left out: torch cannot be imported" in result.stderr
    assert "pip install --no-build-isolation --no-deps --force-reinstall ." in result.stderr
    result = run_setup("--version", before=WITHOUT_TORCH, DMPO_CUDA="1")
    assert result.returncode != 0
    assert "DMPO_CUDA=1, but torch cannot be imported" in result.stderr


@pytest.mark.parametrize(
    ("release", "known", "told"),
    [
        ("13.0", "75 80 86 90 100 120", r"built for 8.0;9.0;10.0;12.0\+PTX"),
        ("13.9", "80 90", r"built for 8.0;9.0\+PTX"),
        ("12.4", "80 90", "CUDA sources left out: the toolkit in .* is CUDA 12, but torch .* is built for CUDA 13.0"),
    ],
    ids=["no device", "no device, fewer architectures", "another CUDA"],
)
def test_a_cuda_build_of_torch_with_a_toolkit(release: str, known: str, told: str, tmp_path: Path) -> None:
    """Where no device is visible, torch itself would find no architecture; with another CUDA it refuses to build."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "cuda_runtime.h").touch()
    nvcc = tmp_path / "bin" / "nvcc"
    listed = " ".join(f"compute_{number}" for number in known.split())
    nvcc.write_text(f"#!/bin/sh\n[ $1 = --version ] && echo 'tools, release {release}, V' || echo {listed}\n")
    nvcc.chmod(0o755)
    fake = "import torch; torch.version.cuda = '13.0'; torch.cuda.device_count = lambda: 0"
    result = run_setup("--version", before=fake, CUDA_HOME=str(tmp_path))  # torch may refuse the toy toolkit after that
    assert re.search(told, result.stderr), result.stderr


@pytest.mark.parametrize(
    ("installed", "wanted"),
    [([], ["torch>=2.11"]), (["2.9.1"], ["torch>=2.11"]), (["2.11.0+cu130"], []), (["2.30.0"], []), (["3.0"], [])],
    ids=str,
)
def test_a_torch_is_downloaded_to_build_only_where_none_of_the_range_is_installed(
    installed: list[str], wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = script("build_backend.py")
    found = [SimpleNamespace(version=version) for version in installed]
    monkeypatch.setattr(backend.importlib.metadata, "distributions", lambda **_: iter(found))
    for hook in ("wheel", "editable"):
        monkeypatch.setattr(backend.build_meta, f"get_requires_for_build_{hook}", lambda settings: ["wheel"])
        assert getattr(backend, f"get_requires_for_build_{hook}")() == ["wheel", *wanted]


def test_a_torch_that_a_build_environment_hides_is_found() -> None:
    code = (
        "import setuptools, sys; outside = [path for path in sys.path if 'site-packages' in path]\n"
        "sys.path[:] = [path for path in sys.path if path not in outside]\n"
        "import build_backend; torch, reason = build_backend.find_torch(); print(torch.__version__)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == torch.__version__


def test_the_oldest_torch_is_one_number() -> None:
    oldest = ".".join(map(str, script("build_backend.py").OLDEST_TORCH))
    assert f'"torch>={oldest}",' in (ROOT / "pyproject.toml").read_text()
    assert f"\ntorch=={oldest}\n" in script(".ci/test_versions.py").lower_bounds()


def test_a_torch_of_ones_own_stays() -> None:
    constraints = script(".ci/constraints.py").constraints
    pinned = (ROOT / ".ci" / "constraints.txt").read_text()
    ours = re.findall(r"^torch==(.*)", pinned, re.MULTILINE)[0]
    for replaced in (None, "2.9.1", ours, f"{ours}+cpu"):
        assert constraints(replaced) == pinned
    kept = constraints("2.11.0+cu130").splitlines()
    assert "torch==2.11.0+cu130" in kept
    assert not [line for line in kept if line.startswith(("triton", "numpy", f"torch=={ours}"))]
    assert "transformers" in " ".join(kept)


def test_the_editable_install_is_a_path_that_type_checkers_follow() -> None:
    """They read paths, and do not run the hooks that setuptools installs for other layouts."""
    before = f"{WITHOUT_TORCH}\nimport setuptools; setuptools.setup = lambda **given: print(given['package_dir'])"
    result = run_setup("editable_wheel", before=before)
    assert result.stdout.strip() == "{'': '.editable'}", result.stderr
    assert [path.name for path in (ROOT / ".editable").iterdir()] == ["dmpo"]
    assert (ROOT / ".editable" / "dmpo" / "kernels" / "remask" / "api.py").is_file()
    code = "from importlib.machinery import PathFinder as finder; print(finder.find_spec('dmpo').origin)"
    result = subprocess.run([sys.executable, "-E", "-c", code], cwd="/", capture_output=True, text=True, check=False)
    assert result.stdout.strip().endswith("dmpo/__init__.py"), "install again: pip install -e ."


def test_quick_tests_exist_and_the_page_shows_their_results() -> None:
    module = script(".ci/test_versions.py")
    assert [path for path in module.QUICK_TESTS if not (ROOT / path).is_file()] == []
    results = json.loads(module.RESULTS.read_text())
    names = [result["name"] for result in results]
    assert names == [name for name in module.SETS if name in names]
    assert module.PAGE.read_text() == module.page(results)


def test_the_built_extension_tells_its_decision() -> None:
    built, reason = extension_status()
    assert built, reason
    assert re.fullmatch(r"built with torch \d+\.\d+\.\d+, with(out)? CUDA sources \(.+\)", reason), reason


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
    data = files("dmpo/config/shipped", ".yaml") | files("dmpo/models/embedded", ".safetensors", ".json")
    data |= files("dmpo/view/assets", ".html", ".css", ".js")
    data |= {"dmpo/run/tested_versions.json", "dmpo/py.typed"}
    assert modules
    assert kernels

    built = {str(path.relative_to(tmp_path / "lib")) for path in (tmp_path / "lib").rglob("*") if path.is_file()}
    assert built >= modules | data | {f"dmpo/{path}" for path in kernels}
    assert not {path for path in built if not path.startswith("dmpo/")}

    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        packed = [member.name.partition("/")[2] for member in tar if member.isfile()]
    assert len(packed) == len(set(packed))
    assert set(packed) >= modules | data | kernels | files("csrc", ".h", ".cpp", ".cu") | {
        "setup.py",
        "build_backend.py",
        "LICENSE",
    }
    assert not [path for path in packed if path.startswith("dmpo/kernels/")]


@pytest.mark.parametrize("target", ["help", "train", "test"])
def test_an_old_python_is_refused_before_any_work(target: str, tmp_path: Path) -> None:
    """`make` in a copy without an environment, with an interpreter that claims to be 3.9."""
    old = tmp_path / "python3.9"
    claim = "import sys; sys.version_info = (3, 9); sys.version = '3.9.18 (main)';"
    old.write_text(f'#!/bin/sh\n[ "$1" = -c ] || exit 99\nexec "{sys.executable}" -c "{claim} $2"\n')
    old.chmod(0o755)
    (tmp_path / ".ci").mkdir()
    inputs = ("Makefile", "pyproject.toml", "setup.py", "build_backend.py", ".ci/constraints.txt", ".ci/constraints.py")
    for name in inputs:
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
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
