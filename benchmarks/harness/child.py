"""Runs a function of a benchmark in a process of its own: fresh memory, and only the threads that it starts."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from benchmarks.harness.provenance import ROOT
from benchmarks.harness.setting import Setting


def in_own_process(
    function: Callable[..., Any],
    setting: Setting,
    *,
    environment: Mapping[str, str | None] | None = None,
    **arguments: Any,
) -> Any:
    """`function(setting, **arguments)`, a public function of a module; arguments and result as JSON has them.

    environment: variables to set, or to remove (None). A quick run stays in this process if it has this environment.

    Raises:
        RuntimeError: the process failed; the message has its exit status.
    """
    environment = environment or {}
    if setting.quick and all(os.environ.get(name) == value for name, value in environment.items()):
        return json.loads(json.dumps(function(setting, **arguments)))
    variables = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ  # waiting threads sleep, so other processes can run
    for name, value in environment.items():
        variables.pop(name, None)
        variables |= {} if value is None else {name: value}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.harness.child", function.__module__, function.__name__],
        input=json.dumps([asdict(setting), arguments]),
        env=variables,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(
            f"{function.__module__}.{function.__name__}({arguments}) ended with exit status {done.returncode}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    module, name = sys.argv[1:]
    fields, arguments = json.load(sys.stdin)
    setting = Setting(**fields)
    setting.begin()
    print("\n" + json.dumps(getattr(importlib.import_module(module), name)(setting, **arguments)))


if __name__ == "__main__":
    main()
