"""Runs parts, each in a process of its own with its own limit: a hang, a crash or a poisoned CUDA context ends one part
alone. A part whose records are complete for the same code, device and versions is not run again."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import Part
from benchmarks.gpu.records import END, START, read_records

ROOT = Path(__file__).resolve().parents[2]
MARGIN = 2.0  # seconds before the end of the process that a part is told to stop
PROBE_SECONDS = 90
HASHED = ("dmpo/**/*.py", "dmpo/**/*.yaml", "kernels/*.py", "kernels/*.json", "benchmarks/**/*.py", "dmpo/_C*.so")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def environment() -> dict[str, str]:
    """Of a part: no network, the tree first on the path, and Triton's own choice of interpreter or device."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    variables = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, **OFFLINE, "PYTHONPATH": path}
    for name in ("TRITON_INTERPRET", "DMPO_PLAIN", "DMPO_LAUNCH_JSON"):
        variables.pop(name, None)  # the device's own kernels, with the launch parameters that are shipped
    return variables


def code_digest(root: Path = ROOT) -> str:
    """Of every file that a result depends on, so that results of an older tree are not taken for this one's."""
    digest = hashlib.sha256()
    for file in sorted({path for pattern in HASHED for path in root.glob(pattern)}):
        digest.update(str(file.relative_to(root)).encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def commit(root: Path = ROOT) -> str | None:
    """The commit of the checkout, or of the file COMMIT where there is no git (a bundle brings that file)."""
    for place in (root / "COMMIT", *(Path(entry) / "COMMIT" for entry in sys.path if entry)):
        if place.is_file() and not (root / ".git").exists():
            return place.read_text().split()[0]
    git = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def probe_device(kind: str) -> dict[str, Any]:
    """What `probe.py` says; `problem` also where the process hangs or dies."""
    command = [sys.executable, "-m", "benchmarks.gpu.probe", kind]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False, timeout=PROBE_SECONDS
        )
    except subprocess.TimeoutExpired:
        reason = f"the driver did not answer within {PROBE_SECONDS} seconds"
    else:
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
        reason = f"looking for the device ended with {done.returncode}: {last_line(done.stderr)}"
    return {"kind": kind, "device": "none", "slug": "no-device", "driver": None, "versions": {}, "problem": reason}


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "(nothing was printed)"


def reason_to_skip(part: Part, device: Mapping[str, Any]) -> str | None:
    """Why this device cannot run the part; None if it can."""
    if device["problem"]:
        return str(device["problem"])
    if device["kind"] == "cpu":
        return None
    if tuple(device["capability"]) < part.capability:
        major, minor = device["capability"]
        wanted = ".".join(map(str, part.capability))
        return f"the GPU has compute capability {major}.{minor}; this part needs {wanted} or newer"
    if device["free_gb"] < part.memory_gb:
        return f"{device['free_gb']:.1f} GB of device memory are free; this part needs {part.memory_gb:g} GB"
    return None


def is_complete(path: Path, key: Mapping[str, Any]) -> bool:
    """Whether the file holds all records of a run under `key`."""
    try:
        records = read_records(path)
    except ValueError:
        return False
    return bool(records) and records[0].get("key") == dict(key) and records[-1].get("seconds") is not None


def write_end(path: Path, **values: Any) -> None:
    """Close a file of records in the place of its process, after a line that may have been cut off."""
    whole = path.read_bytes()
    if whole and not whole.endswith(b"\n"):
        path.write_bytes(whole[: whole.rfind(b"\n") + 1])
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"name": END, **values}) + "\n")


def run_part(part: Part, device: Mapping[str, Any], key: Mapping[str, Any], output: Path, seconds: float) -> None:
    """Run the part for `seconds` at most. Its records are in OUTPUT/PART.jsonl, what else it printed in PART.log."""
    records, log = output / f"{part.name}.jsonl", output / f"{part.name}.log"
    begun = time.monotonic()
    records.write_text(json.dumps({"name": START, "part": part.name, "key": dict(key)}) + "\n")
    if reason := reason_to_skip(part, device):
        print(f"---- {part.name}: skipped, {reason}", flush=True)
        write_end(records, ok=None, skipped=reason, seconds=0.0)
        return
    order = {"part": part.name, "device": device["kind"], "rehearse": key["rehearse"], "records": str(records)}
    order["deadline"] = begun + seconds - MARGIN
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu.one_part"],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # what the part starts is ended with it
        )
        try:
            process.communicate(json.dumps(order), timeout=max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            reason = f"still running after {seconds:.0f} seconds, and ended"
        else:
            if process.returncode:
                reason = f"ended with {process.returncode}: {last_line(log.read_text(errors='replace'))}"
        finally:
            end_group(process)
    if reason:
        write_end(records, ok=False, fault=reason, seconds=None)
    print(f"---- {part.name}: {time.monotonic() - begun:.1f} s{', ' + reason if reason else ''}", flush=True)


def end_group(process: subprocess.Popen[str]) -> None:
    """End the process and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
