"""Runs parts, each in a process of its own with its own limit: a hang, a crash or a poisoned CUDA context ends one part
alone. A part whose records are complete for the same code, device and versions is not run again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import Part
from benchmarks.gpu.records import END, START, read_records
from benchmarks.harness.provenance import ROOT, git

MARGIN = 2.0  # seconds between a part's own deadline and the end of its process
LEAST_SECONDS = 5.0  # a part that has less is not started
PROBE_SECONDS = {"cuda": 60, "cpu": 300}  # a driver may hang; a CPU may be busy
HASHED = ("dmpo/**/*.py", "dmpo/**/*.yaml", "kernels/**/*.py", "benchmarks/**/*.py", "dmpo/_C*.so")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def environment() -> dict[str, str]:
    """The environment of a part: no network, the tree first on the path, Triton's default of interpreter or device."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    variables = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, **OFFLINE, "PYTHONPATH": path}
    if variables.pop("PYTHONDONTWRITEBYTECODE", None):  # nine processes would compile every import anew
        variables["PYTHONPYCACHEPREFIX"] = str(ROOT / "build" / "pycache")
    for name in ("TRITON_INTERPRET", "DMPO_PLAIN", "DMPO_LAUNCH_JSON"):
        variables.pop(name, None)  # the device's own kernels, with the launch parameters that are shipped
    return variables


def code_digest(root: Path = ROOT) -> str:
    """The digest of every file on which a result depends, to tell results of an older tree from results of this one."""
    digest = hashlib.sha256()
    for file in sorted({path for pattern in HASHED for path in root.glob(pattern)}):
        digest.update(str(file.relative_to(root)).encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def commit(root: Path = ROOT) -> str | None:
    """The commit of the sources: from a file COMMIT beside the tree or a bundle's site/, else from git.

    The file comes first: a machine may get changed files with the git folder of an older commit.
    """
    for folder in (root, *(Path(entry).parent for entry in sys.path if Path(entry).name == "site")):
        if (folder / "COMMIT").is_file():
            return (folder / "COMMIT").read_text().strip()
    return git(root, "rev-parse", "HEAD") if (root / ".git").exists() else None


def probe_device(kind: str) -> dict[str, Any]:
    """The output of `probe.py`; `problem` also if the process hangs or dies."""
    command = [sys.executable, "-m", "benchmarks.gpu.probe", kind]
    limit, variables = PROBE_SECONDS[kind], environment()
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=variables, timeout=limit, capture_output=True, text=True, check=False
        )
    except subprocess.TimeoutExpired:
        reason = f"looking for the device took more than {limit} seconds"
    else:
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
        reason = f"looking for the device ended with {done.returncode}: {last_line(done.stderr)}"
    return {"kind": kind, "device": "none", "slug": "no-device", "driver": None, "problem": reason}


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "(nothing was printed)"


def reason_to_skip(part: Part, device: Mapping[str, Any], free_gb: float | None) -> str | None:
    """Why this device cannot run the part; None if it can."""
    if device["problem"]:
        return str(device["problem"])
    if device["kind"] == "cpu":
        return None
    if tuple(device["capability"]) < part.capability:
        have, want = (".".join(map(str, version)) for version in (device["capability"], part.capability))
        return f"the GPU has compute capability {have}; this part needs {want} or newer"
    if free_gb is not None and free_gb < part.memory_gb:
        return f"{free_gb:.1f} GB of device memory are free; this part needs {part.memory_gb:g} GB"
    return None


def is_complete(path: Path, key: Mapping[str, Any]) -> bool:
    """Whether the file holds all records of a run under `key`."""
    try:
        records = read_records(path)
    except ValueError:
        return False
    return bool(records) and records[0].get("key") == dict(key) and records[-1].get("seconds") is not None


def write_end(path: Path, **values: Any) -> None:
    """Write the last record of a file instead of its process, after a line that may have been cut off."""
    whole = path.read_bytes()
    if whole and not whole.endswith(b"\n"):
        path.write_bytes(whole[: whole.rfind(b"\n") + 1])
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"name": END, **values}) + "\n")


@dataclass(frozen=True)
class Order:
    """One part to run for `seconds` at most. key: what the results depend on. free_gb: device memory, None on a CPU."""

    part: Part
    records: Path
    key: Mapping[str, Any]
    free_gb: float | None
    seed: int
    date: str
    seconds: float


def run_part(order: Order) -> None:
    """Run one part. Its records go to the file of the order, its other output to a .log file beside it."""
    part, records, begun = order.part, order.records, time.monotonic()
    start = {"name": START, "part": part.name, "date": order.date, "seed": order.seed, "key": dict(order.key)}
    records.write_text(json.dumps(start) + "\n", encoding="utf-8")
    reason = reason_to_skip(part, order.key, order.free_gb)
    if reason is None and order.seconds < LEAST_SECONDS:
        reason = "no time is left (--seconds)"
    if reason is not None:
        print(f"---- {part.name}: skipped, {reason}", flush=True)
        write_end(records, ok=None, skipped=reason, seconds=None)  # a later call tries again
        return
    fault = in_own_process(order, begun)
    if fault is not None:
        write_end(records, ok=False, fault=fault, seconds=None)
    print(f"---- {part.name}: {time.monotonic() - begun:.1f} s{', ' + fault if fault else ''}", flush=True)


def in_own_process(order: Order, begun: float) -> str | None:
    """Run the part in a process group of its own; what went wrong with the process, or None."""
    text = {
        "part": order.part.name,
        "module": order.part.module,
        "device": order.key["kind"],
        "rehearse": order.key["rehearse"],
        "deadline": begun + order.seconds - MARGIN,
        "seed": order.seed,
        "records": str(order.records.resolve()),
    }
    log = order.records.with_suffix(".log")
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu.one_part"],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # processes that the part starts end with it
        )
        RUNNING.add(process)
        if LEAVING.is_set():  # `end_all` may have come before the process was in the set
            end_group(process)
        try:
            process.communicate(json.dumps(text), timeout=order.seconds)
        except subprocess.TimeoutExpired:
            return f"still running after {order.seconds:.0f} seconds, and ended"
        finally:
            end_group(process)
            RUNNING.discard(process)
    if process.returncode:
        return f"ended with {process.returncode}: {last_line(log.read_text(errors='replace'))}"
    return None


RUNNING: set[subprocess.Popen[str]] = set()
LEAVING = threading.Event()  # no part may start, and a part that is being started ends


def end_all() -> None:
    """End every part that runs, or that is being started."""
    LEAVING.set()
    for process in list(RUNNING):
        end_group(process)


def end_group(process: subprocess.Popen[str]) -> None:
    """End the process and all processes that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
