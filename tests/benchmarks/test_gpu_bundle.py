"""If these fail, the folder for an offline GPU machine lacks a package, carries too much, or starts with the wrong
files. The build itself needs gigabytes, and is not run here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import bundle
from benchmarks.gpu.bundle import (
    PYTHON_VERSION,
    ROOT,
    RUN,
    TARGET,
    check_size,
    closure,
    constraints,
    main,
    name_of,
    wanted_packages,
)
from benchmarks.gpu.bundle import requirements as lines_of


def test_names_are_compared_as_pip_does() -> None:
    lines = ("PyYAML>=6", "huggingface_hub==1.33.0", "ruamel.yaml", "torch>=2.11,<3; python_version > '3'", "x[y]~=1")
    assert [name_of(line) for line in lines] == ["pyyaml", "huggingface-hub", "ruamel-yaml", "torch", "x"]


def test_what_the_machine_has_is_not_asked_for_and_keeps_its_version() -> None:
    has = lines_of(TARGET)
    names = {name_of(line) for line in has}
    assert {"torch", "triton", "transformers", "numpy"} <= names
    wanted = {name_of(requirement) for requirement in wanted_packages(names)}
    assert wanted == {"datasets", "math-verify", "peft", "pydantic", "cut-cross-entropy", "liger-kernel"}, "no plotly"
    limits = constraints(has, "2.11.0")
    assert "torch==2.11.0" in limits
    assert "triton==3.6.0" in limits
    assert "transformers==5.17.0" in limits
    assert any(line.startswith("pydantic==") for line in limits), "the project's own constraints hold for the rest"
    for name in ("torch", "triton", "transformers", "numpy"):
        assert sum(name_of(line) == name for line in limits) == 1


def test_the_closure_stops_at_what_the_machine_has() -> None:
    python = Path(sys.executable)
    pinned = closure(python, ["pydantic>=2"], set())
    assert {line.split("==")[0] for line in pinned} == {
        "annotated-types",
        "pydantic",
        "pydantic-core",
        "typing-extensions",
        "typing-inspection",
    }
    assert all(line.count("==") == 1 for line in pinned)
    fewer = closure(python, ["pydantic>=2"], {"typing-extensions", "pydantic-core"})
    assert {line.split("==")[0] for line in fewer} == {"annotated-types", "pydantic", "typing-inspection"}


def test_a_bundle_that_is_too_large_names_its_largest_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small").write_bytes(b"1" * 1000)
    (tmp_path / "large.whl").write_bytes(b"1" * 3_000_000)
    assert check_size(tmp_path) == pytest.approx(3.001)
    monkeypatch.setattr(bundle, "MOST_MEGABYTES", 3)
    with pytest.raises(SystemExit, match=r"large.whl \(3.0 MB\)"):
        check_size(tmp_path)


def test_a_folder_with_other_files_is_not_deleted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path)])
    assert "holds other files" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A tree whose command prints where it runs, with a bundle in it."""
    tree = tmp_path / "a checkout"
    (tree / "benchmarks" / "gpu").mkdir(parents=True)
    (tree / "dmpo").mkdir()
    (tree / "benchmarks" / "gpu" / "__init__.py").touch()
    (tree / "benchmarks" / "__init__.py").touch()
    (tree / "benchmarks" / "gpu" / "__main__.py").write_text(
        "import carried, os, sys\nprint(os.getcwd(), sys.argv[1:])\n"
    )
    folder = tree / "build" / "gpu-bundle"
    (folder / "site").mkdir(parents=True)
    (folder / "site" / "carried.py").touch()
    (folder / "extension").mkdir()
    (folder / "extension" / "_C.so").touch()
    (folder / "run.sh").write_text(RUN.format(version=PYTHON_VERSION))
    return tree


def start(tree: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(tree / "build" / "gpu-bundle" / "run.sh"), *map(str, arguments)]
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False)


def test_the_script_runs_the_tree_around_it_with_what_it_carries(checkout: Path, tmp_path: Path) -> None:
    done = start(checkout, "parity", "--rehearse")
    assert done.stdout.split("\n")[0] == f"{checkout} ['parity', '--rehearse']", done.stderr
    assert (checkout / "dmpo" / "_C.so").is_file()
    other = tmp_path / "other"
    (checkout / "dmpo").rename(tmp_path / "dmpo")
    (checkout / "benchmarks").rename(tmp_path / "benchmarks")
    refused = start(checkout)
    assert refused.returncode == 2
    assert "is no checkout of dmpo" in refused.stderr
    other.mkdir()
    for name in ("dmpo", "benchmarks"):
        (tmp_path / name).rename(other / name)
    assert start(checkout, other, "parity").stdout.startswith(f"{other} ['parity']")


def test_the_script_refuses_another_python(checkout: Path) -> None:
    script = checkout / "build" / "gpu-bundle" / "run.sh"
    script.write_text(RUN.format(version="3.99"))
    refused = start(checkout)
    assert refused.returncode == 2
    assert "want Python 3.99 (PYTHON=)" in refused.stderr
    assert not (checkout / "dmpo" / "_C.so").exists()


def test_make_passes_what_it_is_given() -> None:
    def printed(*arguments: str) -> str:
        command = ["make", "--no-print-directory", "--dry-run", "gpu-bundle", *arguments]
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "ARGS"))}
        return subprocess.run(command, cwd=ROOT, env=outside, capture_output=True, text=True, check=True).stdout.strip()

    assert printed().split() == ["python3.12", "-m", "benchmarks.gpu.bundle"]
    given = printed("PYTHON=python3.13", "TORCH=2.14.1", "ARCH=8.0;9.0", "ARGS=--has x").split()
    wanted = "python3.13 -m benchmarks.gpu.bundle --torch 2.14.1 --arch 8.0;9.0 --has x"
    assert [word.strip("'\"") for word in given] == wanted.split()
