"""Builds dmpo._C, the C++/CUDA extension. Everything else about the package is in pyproject.toml.

Environment: DMPO_CUDA=0 leaves the CUDA sources out, DMPO_CUDA=1 insists on them; unset, they are built when a CUDA
toolkit of torch's own CUDA version is at hand. CUDA_HOME names the toolkit, TORCH_CUDA_ARCH_LIST the architectures.
Without torch the package is installed without the extension, and says how to build it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from setuptools import find_packages, setup

sys.path.insert(0, str(Path(__file__).parent))
from build_backend import OLDEST_TORCH, find_torch

del sys.path[0]  # the folder holds kernels/, which is no package of that name

DEFAULT_ARCHITECTURES = ((8, 0), (9, 0), (10, 0), (12, 0))  # A100, H100, B200, RTX 50


def cuda_home() -> Path | None:
    """The folder of a usable CUDA toolkit: it holds bin/nvcc and the runtime's headers."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = shutil.which("nvcc")
    places = [Path(named)] if named else [Path("/usr/local/cuda")] + ([Path(nvcc).resolve().parents[1]] if nvcc else [])
    for place in places:
        if shutil.which("nvcc", path=str(place / "bin")) and (place / "include" / "cuda_runtime.h").is_file():
            return place
    return None


def ask_nvcc(home: Path, option: str) -> str:
    """What the toolkit's nvcc prints; empty where it cannot be run."""
    nvcc = str(home / "bin" / "nvcc")
    try:
        return subprocess.run([nvcc, option], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def why_no_cuda(torch: ModuleType, home: Path | None) -> str:
    """Why the CUDA sources cannot be built, or nothing; never asks whether a GPU is present."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is not a CUDA build"
    if home is None:
        return "no CUDA toolkit found (nvcc and cuda_runtime.h; CUDA_HOME names its folder)"
    release = re.search(r"release (\d+)\.", ask_nvcc(home, "--version"))
    if release is None:
        return f"nvcc of {home} does not run"
    if release[1] != torch.version.cuda.split(".")[0]:
        ours = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}"
        return f"the toolkit in {home} is CUDA {release[1]}, but {ours}"
    return ""


def decide_cuda(torch: ModuleType) -> tuple[Path | None, str]:
    """The toolkit to build the CUDA sources with, or None; and why."""
    wish = os.environ.get("DMPO_CUDA", "")
    if wish not in ("", "0", "1"):
        raise SystemExit(f"dmpo: DMPO_CUDA must be 0, 1 or unset, got {wish!r}")
    if wish == "0":
        return None, "DMPO_CUDA=0"
    home = cuda_home()
    if reason := why_no_cuda(torch, home):
        if wish == "1":
            raise SystemExit(f"dmpo: DMPO_CUDA=1, but {reason}")
        return None, reason
    return home, f"torch {torch.__version__} is a CUDA {torch.version.cuda} build and a toolkit was found"


def default_architectures(home: Path) -> str:
    """For TORCH_CUDA_ARCH_LIST: the usual architectures that this nvcc knows, and PTX of the newest for later ones."""
    known = set(re.findall(r"compute_(\d+)\b", ask_nvcc(home, "--list-gpu-arch")))
    usual = [f"{major}.{minor}" for major, minor in DEFAULT_ARCHITECTURES if f"{major}{minor}" in known]
    return ";".join(usual) + "+PTX" if usual else ""


def build_command(base: type) -> type:
    """torch's build_ext, which also removes what earlier versions of this file left in the tree."""

    class BuildExt(base):
        def run(self) -> None:
            super().run()
            if self.inplace:  # Python would prefer a file that names its version
                for stale in Path(__file__).parent.glob("dmpo/_C.cpython-*.so"):
                    stale.unlink()

    return BuildExt


def extension_arguments(torch: ModuleType) -> dict[str, Any]:
    """What setup() needs to build dmpo._C."""
    home, reason = decide_cuda(torch)
    print(f"dmpo: CUDA sources {'built' if home else 'left out'}: {reason}", file=sys.stderr)
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        raise SystemExit("dmpo: Python.h is missing; install this Python's development headers (Debian: python3-dev)")
    if home:
        os.environ["CUDA_HOME"] = str(home)
        if not os.environ.get("TORCH_CUDA_ARCH_LIST") and torch.cuda.device_count() == 0:
            os.environ["TORCH_CUDA_ARCH_LIST"] = default_architectures(home)
            print(f"dmpo: no GPU is visible: built for {os.environ['TORCH_CUDA_ARCH_LIST']}", file=sys.stderr)

    # torch looks for the toolkit when this module is imported.
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    host_flags = ["/O2"] if sys.platform == "win32" else ["-O3", "-g0", "-Wall", "-fvisibility=hidden"]
    any_python = not sysconfig.get_config_var("Py_GIL_DISABLED")  # Python without the GIL has no stable interface yet
    major, minor = OLDEST_TORCH
    extension = (CUDAExtension if home else CppExtension)(
        name="dmpo._C",
        sources=["csrc/bindings.cpp", "csrc/select_cpu.cpp"] + (["csrc/select_cuda.cu"] if home else []),
        depends=["csrc/checks.h", "csrc/operators.h", "csrc/selection_rule.h", "csrc/selection.h"],
        define_macros=[
            ("TORCH_TARGET_VERSION", f"0x{major:02x}{minor:02x}000000000000"),
            ("DMPO_OLDEST_TORCH", f'"{major}.{minor}"'),
            ("DMPO_WITH_CUDA", str(int(bool(home)))),
            ("DMPO_CUDA_REASON", f'"{reason}"'),
            *([("USE_CUDA", "1")] if home else []),
        ],
        extra_compile_args={"cxx": host_flags, "nvcc": ["-O3", "-Xcompiler", "-fvisibility=hidden"]},
        extra_link_args=["-s"] if sys.platform == "linux" else [],
        py_limited_api=any_python,
    )
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": build_command(BuildExtension.with_options(use_ninja=True))},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}} if any_python else {},
    }


def layout() -> dict[str, Any]:
    """The packages and where they lie.

    dmpo/kernels is a link to kernels/ for running from the tree; the package is built from kernels/ itself, once. An
    editable install goes by a folder that holds nothing but a link to dmpo/: a plain path, which type checkers and
    editors follow, and which shows no other folder of the tree.
    """
    of_kernels = [f"dmpo.{name}" for name in find_packages(include=["kernels", "kernels.*"])]
    names = [*find_packages(include=["dmpo", "dmpo.*"], exclude=["dmpo.kernels", "dmpo.kernels.*"]), *of_kernels]
    if "editable_wheel" not in sys.argv:
        folders = {name: name.removeprefix("dmpo.").replace(".", "/") for name in of_kernels}
        return {"packages": names, "package_dir": folders}
    folder = Path(__file__).parent / ".editable"
    folder.mkdir(exist_ok=True)
    if not (folder / "dmpo").is_symlink():
        (folder / "dmpo").symlink_to("../dmpo")
    return {"packages": names, "package_dir": {"": folder.name}}


def extension() -> dict[str, Any]:
    """What setup() needs of the extension; nothing where only metadata are asked for, or where there is no torch."""
    if {"egg_info", "dist_info"} & set(sys.argv[1:2]):
        return {}
    torch, no_torch = find_torch()
    if torch is not None:
        return extension_arguments(torch)
    if os.environ.get("DMPO_CUDA") == "1":
        raise SystemExit(f"dmpo: DMPO_CUDA=1, but {no_torch}")
    print(
        f"dmpo: dmpo._C is left out: {no_torch}. Remasking then runs in plain PyTorch. With torch installed, build it "
        "in this folder: pip install --no-build-isolation --no-deps --force-reinstall .",
        file=sys.stderr,
    )
    return {}


build = extension()
options = {"egg_info": {"egg_base": "."}, **build.pop("options", {})}
setup(license="Apache-2.0", **layout(), **build, options=options)
