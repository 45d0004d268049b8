"""The library of CUDA hooks: whether this torch can take it, and where it is built."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("hooks.cpp")
WRITTEN_FOR = "2.13"  # C++ interfaces of other versions may differ
FOLDER = ROOT / "build" / "pretend_cuda"


def refusal() -> str | None:
    """Why there can be no pretend device here, or None where there can be one.

    Raises:
        RuntimeError: the hooks do not compile for a torch that they are written for.
    """
    import torch

    if torch.version.cuda is not None or torch.version.hip is not None:
        return f"torch {torch.__version__} has device hooks of its own; the pretend device needs a CPU build"
    if shutil.which("g++") is None:
        return "g++ was not found, and the hooks of the pretend device are compiled by it"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed, and its interpreter runs the kernels of the pretend device"
    try:
        hooks_library()
    except RuntimeError as error:
        if torch.__version__.startswith(WRITTEN_FOR):
            raise
        faults = [line for line in str(error).splitlines() if "error" in line]
        return f"the hooks of the pretend device are written for torch {WRITTEN_FOR}: {' '.join(faults[:1])}"
    return None


def hooks_library() -> Path:
    """The compiled hooks; compiled on first use, and again for another source or another torch.

    Raises:
        RuntimeError: the compiler refused, with what it said.
    """
    import torch
    from torch.utils.cpp_extension import include_paths

    key = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode() + torch.__file__.encode()).hexdigest()[:16]
    library = FOLDER / f"hooks-{key}.so"
    if library.exists():
        return library
    FOLDER.mkdir(parents=True, exist_ok=True)
    libraries = Path(torch.__file__).parent / "lib"
    command = ["g++", "-O0", "-std=c++20", "-w", "-shared", "-fPIC", str(SOURCE)]
    command += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"]
    command += [f"-I{path}" for path in include_paths()]
    command += [f"-L{libraries}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{libraries}"]
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        unfinished = Path(folder) / library.name
        compiled = subprocess.run([*command, "-o", str(unfinished)], capture_output=True, text=True, check=False)
        if compiled.returncode:
            raise RuntimeError(f"g++ could not compile {SOURCE.name} for torch {torch.__version__}: {compiled.stderr}")
        os.replace(unfinished, library)  # whole, whoever else builds it at the same time
    return library
