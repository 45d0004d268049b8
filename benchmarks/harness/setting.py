"""Where a benchmark runs, and the header that says so at the start of every file of results."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import cuda

from benchmarks.harness.provenance import ROOT, git, packages_text, short_commit

PACKAGES = ("torch", "triton", "transformers", "peft", "accelerate", "liger-kernel", "cut-cross-entropy")


@dataclass(frozen=True)
class Setting:
    """device: cpu or cuda; threads: of the CPU; quick: tiny shapes, to see that everything runs."""

    device: str = "cpu"
    threads: int = 2
    quick: bool = False

    @property
    def place(self) -> torch.device:
        """Where tensors live."""
        return torch.device(self.device)

    @property
    def size(self) -> str:
        """Key of the shapes that a part takes: cpu, cuda or quick."""
        return "quick" if self.quick else self.device

    @property
    def name(self) -> str:
        """As tables and plots call it: "CPU, 2 threads" or what the driver calls the GPU."""
        if self.device == "cuda":
            return str(cuda.get_device_name())
        return f"CPU, {self.threads} thread{'s' if self.threads > 1 else ''}"

    @property
    def slug(self) -> str:
        """Folder of its results."""
        return re.sub("[^a-z0-9]+", "-", self.name.lower()).strip("-")

    def begin(self) -> None:
        """Make this process one that runs in the setting."""
        torch.set_num_threads(self.threads)


class Load:
    """Processes that ran or waited to run, on average over a minute, at the start and the end of a measurement."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.see()

    def see(self) -> None:
        self.seen.append(os.getloadavg()[0])

    def span(self) -> list[float]:
        """[least, most]."""
        self.see()
        return [round(min(self.seen), 2), round(max(self.seen), 2)]


def header(setting: Setting, command: str, load: Load) -> dict[str, Any]:
    """Device, date, versions, commit and load of a measurement.

    commit: the commit of the checkout, None without a checkout; dirty: whether its tracked files, results aside, differ
    from the commit. The CUDA version is None in a CPU build of torch; absent packages are "not installed".
    """
    commit = git(ROOT, "rev-parse", "HEAD")
    changed = git(ROOT, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)benchmarks/results")
    return {
        "device": setting.name,
        "kind": setting.device,
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": setting.threads,
        "load_average": load.span(),
        "versions": versions(),
        "commit": commit,
        "dirty": None if changed is None else bool(changed),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "quick": setting.quick,
    }


def versions() -> dict[str, str | None]:
    """Of Python, CUDA and the packages that results depend on."""
    found: dict[str, str | None] = {"python": platform.python_version(), "cuda": torch.version.cuda}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def about(results: dict[str, Any]) -> str:
    """A results file's header as a sentence or two."""
    found = results["header"]
    low, high = found["load_average"]
    packages = packages_text(found, ("torch", "transformers"))
    text = f"{found['device']} ({found['processor']}), {packages}, {found['date'][:10]}, commit {short_commit(found)}; "
    text += f"`{found['command']}`. Load average (1 minute) at start and end {low:.1f} to {high:.1f} on "
    text += f"{found['cores']} cores."
    if high > found["cores"] + 0.5:
        text += " Other work ran beside this: seconds may be off by several times, run again on an idle machine."
    return text


def processor() -> str:
    """The CPU's model, on Linux by the name that the kernel gives."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.is_file() else None
    return found[1].strip() if found else platform.processor() or platform.machine()
