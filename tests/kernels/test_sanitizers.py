"""The CPU code of remask_ and revoke_ under the address and undefined-behaviour sanitizers: a report fails the test.

The operators are built once more with the sanitizers, then called in a process that preloads their runtime.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .native import build_operators, compiler

ROOT = Path(__file__).resolve().parents[2]
SANITIZERS = "address,undefined"
FLAGS = ["-O1", "-g1", f"-fsanitize={SANITIZERS}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
PROGRAM = """
import sys
import torch
import dmpo.kernels
from tests.kernels.remask_rows import assert_operators_agree
torch.ops.load_library(sys.argv[1])
grid = [(9, 1), (9, 63), (9, 64), (9, 65), (9, 200), (70, 1000), (0, 5), (3, 0)]  # 70 rows: threads share them
for threads in (1, 2):
    torch.set_num_threads(threads)
    print("rows:", assert_operators_agree(torch.ops.dmpo_sanitized, torch.ops.dmpo, grid))
"""


def runtime(name: str) -> str:
    """The path of a sanitizer's runtime library, or a skip that says it is missing."""
    asked = subprocess.run([compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    found = Path(asked.stdout.strip())
    if not found.is_absolute():
        pytest.skip(f"this g++ comes without {name}: csrc/ was not run under the sanitizers")
    return str(found)


def test_random_rows_under_the_sanitizers(tmp_path: Path) -> None:
    preload = " ".join([runtime("libasan.so"), runtime("libubsan.so")])
    library = build_operators(tmp_path, "select_cpu.cpp", "select_cpu", "dmpo_sanitized", *FLAGS)
    environment = os.environ | {
        "LD_PRELOAD": preload,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python and torch keep memory until they exit
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(library)], env=environment, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[:4000]
    assert "runtime error" not in done.stderr
    assert "ERROR: AddressSanitizer" not in done.stderr
    assert done.stdout.count("rows:") == 2
