"""Builds dmpo._C, the C++/CUDA extension. Everything else about the package is in pyproject.toml.

Environment: DMPO_CUDA=0 leaves the CUDA sources out, DMPO_CUDA=1 insists on them; unset, they are built when a CUDA
toolkit is at hand and torch itself is a CUDA build. CUDA_HOME names the toolkit, TORCH_CUDA_ARCH_LIST the
architectures.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import find_packages, setup

try:
    import torch
except ImportError as error:
    raise SystemExit(f"dmpo: building dmpo._C needs torch in the build environment ({error})") from error


def cuda_home() -> Path | None:
    """The folder of a usable CUDA toolkit: it holds bin/nvcc and the runtime's headers."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = shutil.which("nvcc")
    places = [Path(named)] if named else [Path("/usr/local/cuda")] + ([Path(nvcc).resolve().parents[1]] if nvcc else [])
    for place in places:
        if shutil.which("nvcc", path=str(place / "bin")) and (place / "include" / "cuda_runtime.h").is_file():
            return place
    return None


def decide_cuda() -> tuple[bool, str]:
    """Whether to build the CUDA sources, and why; never asks whether a GPU is present."""
    wish = os.environ.get("DMPO_CUDA", "")
    if wish not in ("", "0", "1"):
        raise SystemExit(f"dmpo: DMPO_CUDA must be 0, 1 or unset, got {wish!r}")
    if wish == "0":
        return False, "DMPO_CUDA=0"
    home = cuda_home()
    if torch.version.cuda is None:
        possible, reason = False, f"torch {torch.__version__} is not a CUDA build"
    elif home is None:
        possible, reason = False, "no CUDA toolkit found (nvcc and cuda_runtime.h; CUDA_HOME names its folder)"
    else:
        os.environ["CUDA_HOME"] = str(home)
        possible, reason = (
            True,
            f"torch {torch.__version__} is a CUDA {torch.version.cuda} build and a toolkit was found",
        )
    if wish == "1" and not possible:
        raise SystemExit(f"dmpo: DMPO_CUDA=1, but {reason}")
    return possible, reason


with_cuda, reason = decide_cuda()
print(f"dmpo: CUDA sources {'built' if with_cuda else 'left out'}: {reason}", file=sys.stderr)

if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
    raise SystemExit("dmpo: Python.h is missing; install this Python's development headers (Debian: python3-dev)")

# torch looks for the toolkit when this module is imported: after decide_cuda.
from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension  # noqa: E402

host_flags = ["/O2", "/openmp"] if sys.platform == "win32" else ["-O3", "-g0", "-Wall", "-Wno-unknown-pragmas"]
link_flags = []
if sys.platform == "linux":
    host_flags.append("-fopenmp")  # at::parallel_for runs on torch's own OpenMP threads
    link_flags = ["-fopenmp", "-s"]
extension = (CUDAExtension if with_cuda else CppExtension)(
    name="dmpo._C",
    sources=["csrc/bindings.cpp", "csrc/remask_cpu.cpp"] + (["csrc/remask_cuda.cu"] if with_cuda else []),
    depends=["csrc/entries.h", "csrc/remask.h", "csrc/selection.h"],
    define_macros=[("DMPO_WITH_CUDA", str(int(with_cuda))), ("DMPO_CUDA_REASON", f'"{reason}"')],
    extra_compile_args={"cxx": host_flags, "nvcc": ["-O3"]},
    extra_link_args=link_flags,
)

setup(
    # dmpo/kernels is a link to kernels/ for running from the tree; the package is built from kernels/ itself, once.
    packages=[*find_packages(include=["dmpo", "dmpo.*"], exclude=["dmpo.kernels", "dmpo.kernels.*"]), "dmpo.kernels"],
    package_dir={"dmpo.kernels": "kernels"},
    ext_modules=[extension],
    cmdclass={"build_ext": BuildExtension.with_options(use_ninja=True)},
)
