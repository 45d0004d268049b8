"""Makes a folder for an offline GPU machine: missing packages, the compiled extension, the commit, a run script.

    make gpu-bundle [PYTHON=python3.12] [TORCH=2.11.0] [ARCH=9.0] [ARGS="--has FILE --output FOLDER"]

Run it with the Python version that the GPU machine has. A virtual environment beside the folder gets the machine's own
packages (`--has`, default target.txt) and its torch; the extension is built against that torch, which needs nvcc and
no GPU. pip resolves the other packages that dmpo needs under .ci/constraints.txt, and the folder has them.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import distributions
from pathlib import Path

# A bare Python has pip alone. With more packages pip is not imported: setuptools refuses a process that has it.
try:
    from packaging.requirements import Requirement
except ImportError:
    from pip._vendor.packaging.requirements import Requirement  # type: ignore[assignment]

from benchmarks.harness.provenance import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    try:
        import tomli as tomllib
    except ImportError:
        from pip._vendor import tomli as tomllib

TARGET = Path(__file__).with_name("target.txt")
MOST_MEGABYTES = 50
PLATFORMS = ("2_28", "2_27", "2_24", "2_17", "2_12", "2_5")  # manylinux tags; pip matches each exactly
OLD_PLATFORMS = ("manylinux2014", "manylinux2010", "manylinux1")
PYTHON_VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
BUILD_TOOLS = ("setuptools>=77", "ninja")
NOT_ON_A_GPU = {"plotly"}  # only `dmpo view` imports it, and it is a third of what the bundle may hold

RUN = """#!/bin/sh
# Measures dmpo on this machine's GPU, without network: sh run.sh [CHECKOUT] [arguments of python -m benchmarks.gpu]
# CHECKOUT is the folder of dmpo's sources, by default the one that this bundle lies in (build/gpu-bundle).
set -eu
bundle=$(cd "$(dirname "$0")" && pwd)
tree="$bundle/../.."
if [ "$#" -gt 0 ] && [ -d "$1/dmpo" ]; then tree=$1; shift; fi
tree=$(cd "$tree" && pwd)
[ -d "$tree/benchmarks/gpu" ] || {{ echo "run.sh: $tree is no checkout of dmpo; name one first" >&2; exit 2; }}
python=${{PYTHON:-python3}}
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$version" = "{version}" ] || {{ echo "run.sh: want Python {version} (PYTHON=), $python is $version" >&2; exit 2; }}
cp "$bundle"/extension/_C*.so "$tree/dmpo/"
cd "$tree"
PYTHONPATH="$bundle/site:$tree" exec "$python" -m benchmarks.gpu "$@"
"""


def name_of(requirement: str) -> str:
    """The normalised name of a requirement's package."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0]).lower()


def requirements(file: Path) -> list[str]:
    """Lines of a requirements file, without comments."""
    lines = (line.split("#")[0].strip() for line in file.read_text().splitlines())
    return [line for line in lines if line]


def wanted_packages(has: set[str]) -> list[str]:
    """The requirements of pyproject.toml, with the peers of the benchmarks, that the GPU machine does not have."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["bench"]]
    return [requirement for requirement in wanted if name_of(requirement) not in has | NOT_ON_A_GPU]


def constraints(has: list[str], torch: str) -> list[str]:
    """The project's own constraints; for packages of the GPU machine, the versions of that machine."""
    names = {name_of(line) for line in has} | {"torch", "triton"}
    ours = [line for line in requirements(ROOT / ".ci" / "constraints.txt") if name_of(line) not in names]
    return [*ours, *(line for line in has if "==" in line), f"torch=={torch}"]


def run(*command: str | Path, **environment: str) -> str:
    """Standard output of a command that must succeed; it is shown first."""
    print("+", " ".join(map(str, command)), flush=True)
    variables = {**os.environ, "PIP_CONSTRAINT": "", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment}
    done = subprocess.run([*map(str, command)], cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"gpu-bundle: the command above ended with {done.returncode}\n{done.stdout[-2000:]}")
    return done.stdout


def machine(folder: Path, has: list[str], torch: str, limits: Path) -> Path:
    """The Python of a virtual environment with the packages of the GPU machine."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    own = [line for line in has if name_of(line) != "torch"]
    options = ("--quiet", "--no-compile", "--constraint", limits)
    run(python, "-m", "pip", "install", *options, f"torch=={torch}", *own, *BUILD_TOOLS)
    return python


def build_extension(python: Path, arch: str, output: Path) -> Path:
    """dmpo._C for the torch of `python` and the architectures; the file."""
    with tempfile.TemporaryDirectory() as scratch:
        command = ("setup.py", "build_ext", "--build-lib", f"{scratch}/lib", "--build-temp", f"{scratch}/temp")
        run(python, *command, DMPO_CUDA="1", TORCH_CUDA_ARCH_LIST=arch)
        built = list(Path(scratch, "lib").rglob("_C*.so"))
        if len(built) != 1:
            sys.exit(f"gpu-bundle: the build left {len(built)} files _C*.so, want 1")
        output.mkdir()
        return Path(shutil.copy(built[0], output))


def carry_packages(python: Path, wanted: list[str], has: set[str], limits: Path, output: Path) -> list[str]:
    """Wheels of what `wanted` needs beyond what the machine has, and the same unpacked in site/; NAME==VERSION each."""
    pip = (python, "-m", "pip")
    run(*pip, "install", "--quiet", "--no-compile", "--constraint", limits, *wanted)
    packages = closure(python, wanted, has)
    tags = [f"manylinux_{number}_x86_64" for number in PLATFORMS] + [f"{old}_x86_64" for old in OLD_PLATFORMS]
    where = [option for tag in tags for option in ("--platform", tag)]
    only = ("--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON_VERSION)
    run(*pip, "download", "--quiet", *only, *where, "--dest", output / "wheels", *packages)
    wheels = sorted((output / "wheels").glob("*.whl"))
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--target", output / "site", *wheels)
    return packages


def closure(python: Path, wanted: list[str], has: set[str]) -> list[str]:
    """What `wanted` needs, directly or not, as installed for `python`; not followed into what the machine has."""
    folder = python.parent.parent / "lib" / f"python{PYTHON_VERSION}" / "site-packages"
    installed = {name_of(each.name): each for each in distributions(path=[str(folder)])}
    needed: dict[str, str] = {}
    queue = [name_of(requirement) for requirement in wanted]
    while queue:
        name = queue.pop()
        if name in needed or name in has:
            continue
        needed[name] = f"{name}=={installed[name].version}"
        for text in installed[name].requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                queue.append(name_of(requirement.name))
    return sorted(needed.values())


def check_size(folder: Path) -> float:
    """Megabytes of the folder; too many end the command."""
    sizes = {file: file.stat().st_size / 1e6 for file in folder.rglob("*") if file.is_file()}
    total = sum(sizes.values())
    if total > MOST_MEGABYTES:
        largest = sorted(sizes, key=lambda file: -sizes[file])[:5]
        names = ", ".join(f"{file.relative_to(folder)} ({sizes[file]:.1f} MB)" for file in largest)
        sys.exit(f"gpu-bundle: {total:.0f} MB, more than {MOST_MEGABYTES}: {names}; name what the machine has: --has")
    return total


def commit() -> str:
    """The commit of the checkout, and whether its files differ from it."""
    head = run("git", "rev-parse", "HEAD").strip()
    return head + (" with changes" if run("git", "status", "--porcelain", "--untracked-files=no").strip() else "")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", default="2.11.0", help="of the GPU machine; default 2.11.0")
    parser.add_argument("--arch", default="9.0", help="CUDA architectures of the extension; default 9.0 (H100, H200)")
    parser.add_argument("--has", type=Path, default=TARGET, help="the machine's packages")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "gpu-bundle")
    parser.add_argument("--venv", type=Path, help="default: OUTPUT-venv; kept, so that a second call is quick")
    options = parser.parse_args(arguments)
    output = options.output.resolve()
    if output.exists():
        if any(output.iterdir()) and not (output / "COMMIT").is_file():
            parser.error(f"--output: {output} holds other files; want an absent or empty folder, or an older bundle")
        shutil.rmtree(output)
    output.mkdir(parents=True)
    has = requirements(options.has)
    limits = output / "constraints.txt"
    limits.write_text("\n".join(constraints(has, options.torch)) + "\n")
    environment = (options.venv or output.with_name(output.name + "-venv")).absolute()
    python = machine(environment, has, options.torch, limits)
    names = {name_of(line) for line in has} | {"torch"}
    wanted = wanted_packages(names)
    packages = carry_packages(python, wanted, names, limits, output)
    extension = build_extension(python, options.arch, output / "extension")
    (output / "COMMIT").write_text(commit() + "\n")
    (output / "run.sh").write_text(RUN.format(version=PYTHON_VERSION))
    limits.unlink()
    print(f"packages: {', '.join(packages)}")
    print(f"extension: {extension.name}, torch {options.torch}, architectures {options.arch}, Python {PYTHON_VERSION}")
    print(f"{output}: {check_size(output):.1f} MB. On the GPU machine: sh {output.name}/run.sh")


if __name__ == "__main__":
    main()
