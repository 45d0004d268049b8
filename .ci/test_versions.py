"""Runs the quick tests with the oldest, the pinned and the newest versions that dmpo takes, and writes how it went.

    python .ci/test_versions.py [oldest] [pinned] [newest] [--python SET=PATH ...] [--workers N]

Each set has a virtual environment, .venv-SET, and in it a copy of the working tree with an extension of its own. The
oldest set is the lower bounds of pyproject.toml, the pinned one .ci/constraints.txt, the newest whatever pip finds.
Results go to dmpo/run/tested_versions.json, which `dmpo info` reads, and docs/versions.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "dmpo" / "run" / "tested_versions.json", ROOT / "docs" / "versions.md"
SETS = ("oldest", "pinned", "newest")
TOOLS = ("hypothesis", "pytest", "pytest-xdist", "scipy", "tensorboard", "triton")
BESIDE_THE_BOUNDS = {"numpy": "<2.4"}  # triton 3.6's interpreter fails with a newer one
PRINT_VERSIONS = """
import json, platform
from importlib.metadata import version
names = "torch triton transformers accelerate peft datasets huggingface-hub tokenizers pydantic numpy".split()
print(json.dumps([platform.python_version(), {name: version(name) for name in names}]))
"""

# Every subsystem: kernels, decoders, losses, objectives, models, trainer, ranks, tasks, command line.
QUICK_TESTS = (
    "tests/kernels/test_revoke.py",
    "tests/kernels/test_sampling_op.py",
    "tests/kernels/test_masked_ce.py",
    "tests/kernels/test_compile.py",
    "tests/decoding/test_golden.py",
    "tests/losses/test_wdce.py",
    "tests/losses/test_wddo.py",
    "tests/losses/test_weights.py",
    "tests/objectives/test_one_step.py",
    "tests/models/test_masked_lm.py",
    "tests/models/test_lora.py",
    "tests/models/test_files.py",
    "tests/test_trainer.py",
    "tests/ranks/test_sharding.py",
    "tests/rewards/test_mathematics.py",
    "tests/config/test_config.py",
    "tests/cli/test_commands.py",
)


def lower_bounds() -> str:
    """pyproject.toml's own, as constraints."""
    text = (ROOT / "pyproject.toml").read_text()
    (block,) = re.findall(r"^dependencies = \[$(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    bounds = re.findall(r'^\s+"([A-Za-z0-9_-]+)>=([0-9.]+)', block, re.MULTILINE)
    bounds += re.findall(r'^\s+"(triton)>=([0-9.]+)', text, re.MULTILINE)
    lines = [f"{name}=={version}" for name, version in bounds]
    return "\n".join(lines + [name + bound for name, bound in BESIDE_THE_BOUNDS.items()])


def prepare(name: str, python: str) -> tuple[Path, Path]:
    """The set's Python and its copy of the tree, with everything installed."""
    venv = ROOT / f".venv-{name}"
    own, tree = venv / "bin" / "python", venv / "tree"
    if not own.exists():
        subprocess.run([python, "-m", "venv", venv], check=True)
    shutil.rmtree(tree, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for path in filter(None, listed.stdout.split("\0")):
        if not os.path.lexists(ROOT / path):
            continue  # removed, not committed yet
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, tree / path, follow_symlinks=False)

    constraints = venv / "constraints.txt"
    pinned = (ROOT / ".ci" / "constraints.txt").read_text()
    constraints.write_text({"oldest": lower_bounds(), "pinned": pinned, "newest": ""}[name] + "\n")
    pip: list[str | Path] = [own, "-m", "pip", "--disable-pip-version-check"]
    pip += ["install", "-q", "--no-compile", "-c", constraints]
    if name == "newest":
        pip += ["--upgrade", "--upgrade-strategy", "eager"]
    subprocess.run([*pip, "torch", "setuptools>=70.1", "ninja"], check=True)
    host_only = {**os.environ, "DMPO_CUDA": "0"}  # no GPU takes part
    subprocess.run([*pip, "--no-build-isolation", "-e", tree, *TOOLS], check=True, env=host_only)
    return own, tree


def run_tests(name: str, own: Path, tree: Path, workers: int) -> dict:
    """What the set is and how many quick tests passed in it."""
    report = tree.parent / "report.xml"
    report.unlink(missing_ok=True)
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command: list[str | Path] = [own, "-m", "pytest", "-n", str(workers), f"--junitxml={report}", *QUICK_TESTS]
    subprocess.run(command, cwd=tree, env={**kept, "OMP_NUM_THREADS": "1"}, check=False)
    counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for suite in ElementTree.parse(report).iter("testsuite"):
        counts = {key: count + int(suite.get(key, 0)) for key, count in counts.items()}
    failed = counts["failures"] + counts["errors"]
    printed = subprocess.run([own, "-c", PRINT_VERSIONS], cwd=tree, capture_output=True, text=True, check=True)
    python, versions = json.loads(printed.stdout)
    return {
        "name": name,
        "date": date.today().isoformat(),
        "python": python,
        "versions": versions,
        "passed": counts["tests"] - failed - counts["skipped"],
        "failed": failed,
        "skipped": counts["skipped"],
    }


def page(sets: list[dict]) -> str:
    """docs/versions.md."""
    text = (
        "# Tested versions\n\n`make test-versions` runs the quick tests with each set of versions and writes this "
        "page. `dmpo info` compares the\ninstalled versions with it. The tests run without a GPU.\n\n"
    )
    if not sets:
        return text + "Nothing was run yet.\n"
    text += "| | " + " | ".join(result["name"] for result in sets) + " |\n|---|" + "---|" * len(sets) + "\n"
    rows = {"Python": [result["python"] for result in sets]}
    rows |= {name: [result["versions"].get(name, "–") for result in sets] for name in sets[0]["versions"]}
    for title in ("passed", "failed", "skipped", "date"):
        rows[title] = [str(result[title]) for result in sets]
    return text + "".join(f"| {title} | {' | '.join(cells)} |\n" for title, cells in rows.items())


def recorded() -> list[dict]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else []


def write(results: list[dict]) -> None:
    """Both files, the sets in their order."""
    ordered = sorted(results, key=lambda result: SETS.index(result["name"]))
    RESULTS.write_text(json.dumps(ordered, indent=2) + "\n")
    PAGE.write_text(page(ordered))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "sets", nargs="*", default=list(SETS), help=f"of {', '.join(SETS)}; all of them if none is named"
    )
    parser.add_argument("--python", action="append", default=[], metavar="SET=PATH")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--page", action="store_true", help="write the page from the results, and run nothing")
    arguments = parser.parse_args()
    if unknown := set(arguments.sets) - set(SETS):
        parser.error(f"there is no set {', '.join(sorted(unknown))}; the sets are {', '.join(SETS)}")
    pythons = dict(choice.split("=", 1) for choice in arguments.python)
    for name in [] if arguments.page else arguments.sets:
        print(f"== {name}", flush=True)
        own, tree = prepare(name, pythons.get(name, sys.executable))
        result = run_tests(name, own, tree, arguments.workers)
        print(json.dumps(result), flush=True)
        write([*(other for other in recorded() if other["name"] != name), result])
    write(recorded())
    return int(any(result["failed"] for result in recorded()))


if __name__ == "__main__":
    sys.exit(main())
