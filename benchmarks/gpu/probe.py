"""Which device is here, and with what software? One JSON object on stdout; in a process of its own, so that the command
itself uses no memory of the device."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any


def probe(kind: str) -> dict[str, Any]:
    """device, capability, memory, driver and versions; `problem` says why there is no device of that kind."""
    import torch

    from benchmarks.harness.setting import Setting, processor, versions
    from dmpo.kernels.launch.table import cache_file
    from dmpo.kernels.remask import extension_status

    report: dict[str, Any] = {
        "kind": kind,
        "processor": processor(),
        "versions": versions(),
        "extension": extension_status()[1],
        "launch_parameters": f"tuned, {cache_file()}" if cache_file().is_file() else "as shipped",
        "problem": None,
    }
    if kind == "cpu":
        setting = Setting("cpu", torch.get_num_threads())
        return report | {"device": setting.name, "slug": setting.slug, "driver": None}
    report["driver"] = driver_version()
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # no device, no driver or one too old: torch says which
        return report | {"device": "none", "slug": "no-device", "problem": " ".join(str(error).split())}
    setting = Setting("cuda")
    free, total = torch.cuda.mem_get_info()
    return report | {
        "device": setting.name,
        "slug": setting.slug,
        "capability": list(torch.cuda.get_device_capability()),
        "free_gb": free / 1e9,
        "total_gb": total / 1e9,
    }


def driver_version() -> str | None:
    """The version of NVIDIA's driver, or None."""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.splitlines()[0].strip()
    file = Path("/sys/module/nvidia/version")
    return file.read_text().strip() if file.is_file() else None


if __name__ == "__main__":
    print("\n" + json.dumps(probe(sys.argv[1])))
