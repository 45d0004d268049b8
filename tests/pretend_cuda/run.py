"""The child process of a group of cases: hooks first, then torch, then every case; results as JSON.

    python -m tests.pretend_cuda.run LIBRARY OUTPUT MODULE...

A MODULE of this folder has CASES, name -> case, and `measure(case)`, whose result JSON can hold. Modules share a
process, since importing what they need takes longer than most of their cases.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.pretend_cuda.hooks import ROOT, hooks_library

Results = dict[str, dict[str, dict[str, Any]]]


def run_groups(*modules: str, timeout: float = 900) -> Results:
    """Results by module and case, made in a process of their own; {"error": its traceback} for a case that raised.

    Raises:
        RuntimeError: the process failed as a whole, with the end of what it wrote.
    """
    environment = {**os.environ, "TRITON_INTERPRET": "1", "DMPO_PLAIN": "0", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "results.json"
        command = [sys.executable, "-m", "tests.pretend_cuda.run", str(hooks_library()), str(output), *modules]
        child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, cwd=folder)
        if child.returncode or not output.exists():
            raise RuntimeError(f"the cases ended with {child.returncode}: {child.stdout[-2000:]}{child.stderr[-4000:]}")
        results: Results = json.loads(output.read_text())
        return results


def main(library: str, output: str, *modules: str) -> None:
    if "torch" in sys.modules:
        raise RuntimeError("torch was imported before the hooks of the pretend device")
    ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    import torch

    torch.set_num_threads(1)
    results: Results = {}
    for module in modules:
        group = importlib.import_module(f"tests.pretend_cuda.{module}")
        results[module] = {name: _attempt(group.measure, case) for name, case in group.CASES.items()}
    Path(output).write_text(json.dumps(results))


def _attempt(measure: Callable[[Any], dict[str, Any]], case: Any) -> dict[str, Any]:
    start = time.process_time()
    try:
        return {**measure(case), "cpu_seconds": time.process_time() - start}
    except Exception:
        return {"error": traceback.format_exc()}


if __name__ == "__main__":
    main(*sys.argv[1:])
