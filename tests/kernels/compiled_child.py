"""Python in a process of its own, where Triton compiles: this one interprets its kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_compiled(*arguments: str, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs `python arguments` in `path`, on the checkout's own code."""
    env = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "DMPO_PLAIN")}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])}
    command = [sys.executable, "-W", "ignore", *arguments]
    return subprocess.run(command, env=env, cwd=path, capture_output=True, text=True, check=False)
