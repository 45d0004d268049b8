"""What do the production kernels compile to? Registers, spills, shared memory, widths of loads and tensor-core use.

Triton compiles real cubins for sm_80, sm_90 and sm_100 without a GPU, and its own cuobjdump reads them. Run without
TRITON_INTERPRET: `python -m benchmarks.counted.cubin [--arch 90] [--ptx] [--json FILE]`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness.markdown import table

RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
GLOBAL_LOAD = re.compile(r"\b(LDG\.E[A-Z0-9.]*|LDGSTS\.E[A-Z0-9.]*|UTMALDG\S*)")
LOCAL_MEMORY = re.compile(r"\b(?:LDL|STL)(?:\.[A-Z0-9]+)*")
TENSOR_CORE = re.compile(r"\b(?:HMMA|WGMMA|HGMMA|QGMMA|UTCHMMA|UTCQMMA|UTCMMA|DMMA|IMMA|OMMA)\b")
PTX_GLOBAL_LOAD = re.compile(r"\bld\.global(?:\.\w+(?:::\w+)*)*")  # ld.global.L1::evict_last.v4.b32
PTX_WIDTH = re.compile(r"(?:\.v(\d))?\.[bfsu](\d+)$")
PTX_LOCAL_MEMORY = re.compile(r"\b(?:ld|st)\.local\b")
PTX_TENSOR_CORE = re.compile(r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)\b")


@dataclass(frozen=True)
class Compiled:
    """One kernel on one architecture. spills: bytes of local memory a thread; wide_loads: global loads of 16 bytes;
    narrow_loads: all other global loads; row_loads: 16-byte loads that read one block of the row; source: the code in
    which instructions were counted, "sass" or "ptx"."""

    name: str
    arch: int
    registers: int
    spills: int
    local_instructions: int
    shared_bytes: int
    wide_loads: int
    narrow_loads: int
    row_loads: int
    tensor_core: int
    wants_wide: bool
    wants_tensor_core: bool
    warps: int
    source: str = "sass"

    def faults(self) -> list[str]:
        """The broken promises: no spills, loads of 16 bytes, tensor cores for a dot."""
        faults = []
        if self.spills or self.local_instructions:
            faults.append(f"spills: {self.spills} bytes, {self.local_instructions} instructions")
        if self.wants_wide and (self.row_loads == 0 or self.wide_loads < self.row_loads):
            faults.append(f"16-byte loads: {self.wide_loads}, want {max(1, self.row_loads)}")
        if self.wants_tensor_core and self.tensor_core == 0:
            faults.append("no tensor-core instruction")
        return faults


def row_loads(kernel: Any) -> int:
    """16-byte loads of a thread for one block of a row: bytes of the block over (threads x 16)."""
    constants = kernel.constexprs
    elements = constants.get("BLOCK") or (constants.get("VEC") or 0) * (constants.get("LANES") or 0)
    pointed = next((t for name, t in kernel.signature.items() if name in ("logits", "tile")), "*fp32")
    itemsize = {"*fp32": 4, "*fp64": 8}.get(pointed, 2)
    return int(elements * itemsize // (kernel.num_warps * 32 * 16))


def compile_kernel(kernel: Any, *, ptx: bool = False) -> Compiled:
    """Compile one `ProductionKernel` for its architecture and read the cubin.

    `ptx`: registers, spills and shared memory still come from the cubin, but instructions are counted in its PTX, which
    has one vector load for each load of the machine code. This saves the disassembly, which takes twice as long as the
    compilation.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(kernel.fn, dict(kernel.signature), dict(kernel.constexprs), dict(kernel.attrs))
    options = {"num_warps": kernel.num_warps, "num_stages": kernel.num_stages, **kernel.options}
    binary = triton.compile(source, target=GPUTarget("cuda", kernel.arch, 32), options=options)
    cuobjdump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        flags = ["-res-usage"] if ptx else ["-res-usage", "-sass"]
        dumps = [subprocess.run([cuobjdump, f, file.name], capture_output=True, text=True, check=True) for f in flags]
    usage = dumps[0].stdout
    resources = RESOURCES.search(usage)
    if resources is None:
        raise RuntimeError(
            f"{kernel.name}, sm_{kernel.arch}: no resource usage in cuobjdump's output: {usage[-200:]!r}"
        )
    registers, stack, shared, local = map(int, resources.groups())
    counted = _count_ptx(binary.asm["ptx"]) if ptx else _count_sass(dumps[1].stdout)
    return Compiled(
        name=kernel.name,
        arch=kernel.arch,
        registers=registers,
        spills=stack + local,
        shared_bytes=max(shared, int(binary.metadata.shared)),
        row_loads=row_loads(kernel),
        wants_wide=kernel.wide_loads,
        wants_tensor_core=kernel.tensor_cores,
        warps=kernel.num_warps,
        **counted,
    )


def _count_sass(code: str) -> dict[str, Any]:
    loads = GLOBAL_LOAD.findall(code)
    wide = sum(".128" in load or load.startswith("UTMALDG") for load in loads)
    return _counts("sass", loads, wide, LOCAL_MEMORY.findall(code), TENSOR_CORE.findall(code))


def _count_ptx(code: str) -> dict[str, Any]:
    loads = PTX_GLOBAL_LOAD.findall(code)
    widths = [PTX_WIDTH.search(load) for load in loads]
    wide = sum(width is not None and int(width[1] or 1) * int(width[2]) >= 128 for width in widths)
    return _counts("ptx", loads, wide, PTX_LOCAL_MEMORY.findall(code), PTX_TENSOR_CORE.findall(code))


def _counts(source: str, loads: list[str], wide: int, local: list[str], dots: list[str]) -> dict[str, Any]:
    counts = {"wide_loads": wide, "narrow_loads": len(loads) - wide, "local_instructions": len(local)}
    return counts | {"tensor_core": len(dots), "source": source}


def _compile_numbered(number: int, ptx: bool) -> Compiled:
    from dmpo.kernels.production import production_kernels

    return compile_kernel(production_kernels()[number], ptx=ptx)


def compile_all(archs: tuple[int, ...] | None = None, *, ptx: bool = False) -> list[Compiled]:
    """Every production configuration, on as many processes as there are cores; `ptx` as in `compile_kernel`."""
    from dmpo.kernels.launch import paths
    from dmpo.kernels.production import production_kernels

    if paths.INTERPRETED:
        raise RuntimeError("TRITON_INTERPRET is set, and interpreted kernels cannot be compiled; unset it")
    kernels = production_kernels()
    numbers = [i for i, kernel in enumerate(kernels) if archs is None or kernel.arch in archs]
    with ProcessPoolExecutor(os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()) as pool:
        return list(pool.map(partial(_compile_numbered, ptx=ptx), numbers, chunksize=2))


def figures(compiled: list[Compiled]) -> list[dict[str, Any]]:
    """The compiled kernels and their faults, as JSON stores them."""
    return [asdict(kernel) | {"faults": kernel.faults()} for kernel in compiled]


def table_of_kernels(compiled: list[Compiled]) -> str:
    """A Markdown table, with a row for each kernel and architecture."""
    head = ["kernel", "sm", "warps", "registers", "spills (B)", "shared (B)", "16-byte loads", "other loads"]
    rows = []
    for k in compiled:
        tensor_core = k.tensor_core if k.wants_tensor_core or k.tensor_core else "–"
        cells = (k.name, k.arch, k.warps, k.registers, k.spills, k.shared_bytes, k.wide_loads, k.narrow_loads)
        rows.append([str(cell) for cell in (*cells, tensor_core)])
    return table([*head, "tensor core"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, action="append", help="80, 90 or 100; may be repeated; all by default")
    parser.add_argument("--ptx", action="store_true", help="count instructions in PTX: three times faster")
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    compiled = compile_all(tuple(arguments.arch) if arguments.arch else None, ptx=arguments.ptx)
    print(table_of_kernels(compiled))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures(compiled), indent=1))
    faults = [f"{k.name}, sm_{k.arch}: {fault}" for k in compiled for fault in k.faults()]
    print("\n".join(faults) if faults else f"{len(compiled)} kernels: no spills, 16-byte loads where rows allow them")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
