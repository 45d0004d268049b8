"""Which path a tensor takes, how a Triton kernel is launched, and the registry of production kernels.

A launch's parameters are those of a running `override`, or what `launch_table.py` finds in files and its table.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .launch_table import ARCHITECTURES, TABLE, LaunchConfig, legal, nearest_architecture, override_tables

try:
    import triton
    import triton.language as tl
except ImportError:  # the plain PyTorch path needs no Triton
    triton = None
    tl = None

INTERPRETED = triton is not None and bool(triton.knobs.runtime.interpret)
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_KERNEL_MODULES = ("masked_ce", "linear_ce", "sampling")


def jit(fn: Callable[..., Any], do_not_specialize: tuple[str, ...] = ()) -> Any:
    """`triton.jit`, or the bare function where Triton is not installed (it is then never launched)."""
    return fn if triton is None else triton.jit(fn, do_not_specialize=do_not_specialize)


# ---------------------------------------------------------------------------------------------- which path


_plain = os.environ.get("DMPO_PLAIN", "0") not in ("", "0")


@contextlib.contextmanager
def plain_path(enabled: bool = True) -> Iterator[None]:
    """Force (or, with False, allow again) Triton off inside the block; the environment variable DMPO_PLAIN=1 does it
    for good."""
    global _plain
    before, _plain = _plain, enabled
    try:
        yield
    finally:
        _plain = before


def on_device(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current GPU: make that the one `x` is on."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else contextlib.nullcontext()


def uses_triton(x: Tensor) -> bool:
    """True if ops on `x` run the Triton kernels: on a GPU, or on CPU tensors under TRITON_INTERPRET=1; never for
    float64."""
    if triton is None or _plain or x.dtype not in _FLOATS:
        return False
    return INTERPRETED if x.device.type == "cpu" else x.device.type == "cuda"


def kernel_status(device: str = "cpu") -> tuple[bool, str]:
    """(Triton kernels are used on `device`, why or why not), for `dmpo info`."""
    if _plain:
        return False, "DMPO_PLAIN=1 or plain_path() forces plain PyTorch"
    if triton is None:
        return False, "triton is not installed"
    if device == "cpu":
        return INTERPRETED, "TRITON_INTERPRET=1" if INTERPRETED else "CPU tensors take the plain PyTorch path"
    return device == "cuda", f"triton {triton.__version__}" if device == "cuda" else f"no Triton path for {device}"


# ---------------------------------------------------------------------------------------------- parameters


_overridden: dict[str, LaunchConfig] = {}


def launch_config(op: str, vocab: int, dtype: torch.dtype, arch: int | None = None) -> LaunchConfig:
    """Parameters of `op` for rows of `vocab` elements of `dtype` on sm_`arch` (None: the current GPU, or sm_90
    without one).

    Rows shorter than the table's block get a smaller block and fewer warps, which holds for an `override` too. Raises
    KeyError for an unknown op.
    """
    arch = current_arch() if arch is None else arch
    named = os.environ.get("DMPO_LAUNCH_JSON", "")
    return _launch_config(op, longest_block(vocab), max(2, dtype.itemsize), arch, named, _overridden.get(op))


def longest_block(vocab: int) -> int:
    """The least block that holds a row, 128 at least; all that a launch depends on of a vocabulary."""
    return max(128, 1 << max(0, vocab - 1).bit_length())


@functools.cache
def _launch_config(
    op: str, longest: int, size: int, arch: int, named: str, override_: LaunchConfig | None
) -> LaunchConfig:
    config = TABLE[nearest_architecture(arch)][op][min(size, 4)] if override_ is None else override_
    for overrides in override_tables(named) if override_ is None else ():
        found = overrides.get(f"sm_{nearest_architecture(arch)}", {}).get(op, {}).get(str(size))
        if found is not None:
            config = found
            break
    block = min(config.block, longest)
    warps = config.num_warps
    while warps > 1 and block * size < warps * 32 * 16:  # at least one 16-byte load a thread
        warps //= 2
    return LaunchConfig(block, warps, config.num_stages)


@contextlib.contextmanager
def override(op: str, config: LaunchConfig) -> Iterator[None]:
    """Launch `op` (a key of `TABLE`) with `config` inside the block, whatever tables say, in every dtype and shape.

    Raises ValueError for an unknown op, for a block or num_warps that is no power of two, and for a block of
    "tile_softmax" other than the table's: there a row is one block, so the width of a tile decides.
    """
    if op not in TABLE[ARCHITECTURES[0]]:
        raise ValueError(f"op: got {op!r}, want one of {', '.join(TABLE[ARCHITECTURES[0]])}")
    if not legal(config):
        raise ValueError(f"config: got {config}, want block and num_warps powers of two")
    if op == "tile_softmax" and config.block != TABLE[ARCHITECTURES[0]][op][4].block:
        wanted = TABLE[ARCHITECTURES[0]][op][4].block
        raise ValueError(f"config: got block {config.block}, want {wanted}: a row of tile_softmax is one block")
    before = _overridden.get(op)
    _overridden[op] = config
    try:
        yield
    finally:
        if before is None:
            del _overridden[op]
        else:
            _overridden[op] = before


def forget_files() -> None:
    """Read the files of launch parameters again when an op next asks."""
    _launch_config.cache_clear()


def current_arch() -> int:
    """Compute capability of the current GPU as 80, 90, ...; 90 without one."""
    return _arch_of(torch.cuda.current_device()) if torch.cuda.is_available() else 90


@functools.cache
def _arch_of(device: int) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


# ---------------------------------------------------------------------------------------------- registry


@dataclass(frozen=True)
class ProductionKernel:
    """One kernel as it is launched in production, complete enough for `triton.compile(ASTSource(...))` without a GPU.

    signature: argument -> Triton type ("*bf16", "i32", "constexpr"); constexprs: argument -> value; attrs: 16-byte
    divisibility by argument position. wide_loads: rows of logits are read, so 16-byte global loads are expected.
    tensor_cores: it has a dot.
    """

    name: str
    fn: Any
    arch: int
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    attrs: Mapping[tuple[int, ...], list[list[Any]]]
    num_warps: int
    num_stages: int
    wide_loads: bool = True
    tensor_cores: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


def production_kernel(
    name: str,
    fn: Any,
    arch: int,
    types: Mapping[str, str],
    constexprs: Mapping[str, Any],
    config: LaunchConfig,
    *,
    wide_loads: bool = True,
    tensor_cores: bool = False,
    unaligned: Collection[str] = (),
    integers: Mapping[str, int] | None = None,
) -> ProductionKernel:
    """Describe a launch: `types` of the run-time arguments, `constexprs` of the others; what `fn` does not take is left
    out. All pointers and integers but `unaligned` carry the hint that they divide by 16.

    `integers` are run-time integers by example, which Triton compiles for as it does at such a launch: those of 1 are
    constants, those from 2^31 on are i64, and only multiples of 16 carry the hint.
    """
    given = {a: v for a, v in (integers or {}).items() if a in fn.arg_names}
    types = {**types, **{a: "i32" if v < 2**31 else "i64" for a, v in given.items()}}
    constexprs = {a: v for a, v in constexprs.items() if a in fn.arg_names}
    constexprs |= {a: v for a, v in given.items() if v == 1}
    unaligned = {*unaligned, *(a for a, v in given.items() if v % 16)}
    arguments = list(fn.arg_names)
    signature = {a: "constexpr" if a in constexprs else types[a] for a in arguments}
    hinted = [a for a, t in signature.items() if (t.startswith("*") or t in ("i32", "i64")) and a not in unaligned]
    attrs: dict[tuple[int, ...], list[list[Any]]] = {(arguments.index(a),): [["tt.divisibility", 16]] for a in hinted}
    return ProductionKernel(
        name,
        fn,
        arch,
        signature,
        constexprs,
        attrs,
        config.num_warps,
        config.num_stages,
        wide_loads,
        tensor_cores,
    )


def production_kernels() -> list[ProductionKernel]:
    """Every configuration the ops launch, for sm_80, sm_90 and sm_100: each kernel module's `production(arch)`."""
    modules = [importlib.import_module(f"{__package__}.{name}") for name in _KERNEL_MODULES]
    return [
        kernel
        for arch in ARCHITECTURES
        for module in modules
        if hasattr(module, "production")
        for kernel in module.production(arch)
    ]
