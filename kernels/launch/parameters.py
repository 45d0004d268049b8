"""The launch parameters of a Triton kernel: from an active `override`, or from the files and the table of `table`."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator

import torch

from .table import ARCHITECTURES, TABLE, LaunchConfig, legal, nearest_architecture, override_tables

_overridden: dict[str, LaunchConfig] = {}


def launch_config(op: str, vocab: int, dtype: torch.dtype, arch: int | None = None) -> LaunchConfig:
    """Parameters of `op` for rows of `vocab` elements of `dtype` on sm_`arch` (None: the current GPU, or sm_90
    without one).

    Rows shorter than the block get a smaller block and fewer warps, under an `override`, too. Raises KeyError for an
    unknown op.
    """
    arch = current_arch() if arch is None else arch
    named = os.environ.get("DMPO_LAUNCH_JSON", "")
    return _launch_config(op, longest_block(vocab), max(2, dtype.itemsize), arch, named, _overridden.get(op))


def longest_block(vocab: int) -> int:
    """The smallest block that covers a row, 128 at least. A launch depends on the vocabulary through it alone."""
    return max(128, 1 << max(0, vocab - 1).bit_length())


@functools.cache
def _launch_config(
    op: str, longest: int, itemsize: int, arch: int, named: str, override_: LaunchConfig | None
) -> LaunchConfig:
    config = TABLE[nearest_architecture(arch)][op][min(itemsize, 4)] if override_ is None else override_
    for overrides in override_tables(named) if override_ is None else ():
        from_file = overrides.get(f"sm_{nearest_architecture(arch)}", {}).get(op, {}).get(str(itemsize))
        if from_file is not None:
            config = from_file
            break
    block = min(config.block, longest)
    warps = config.num_warps
    while warps > 1 and block * itemsize < warps * 32 * 16:  # at least one 16-byte load a thread
        warps //= 2
    return LaunchConfig(block, warps, config.num_stages)


@contextlib.contextmanager
def override(op: str, config: LaunchConfig) -> Iterator[None]:
    """Launch `op` (a key of `TABLE`) with `config` inside the `with`, whatever the tables say, for any dtype and shape.

    Raises ValueError for an unknown op, for a block or num_warps that is no power of two, and for a block of
    "tile_softmax" that differs from the table's: there a row is one block, so the width of a tile decides.
    """
    if op not in TABLE[ARCHITECTURES[0]]:
        raise ValueError(f"op: got {op!r}, want one of {', '.join(TABLE[ARCHITECTURES[0]])}")
    if not legal(config):
        raise ValueError(f"config: got {config}, want block and num_warps powers of two")
    if op == "tile_softmax" and config.block != TABLE[ARCHITECTURES[0]][op][4].block:
        row = TABLE[ARCHITECTURES[0]][op][4].block
        raise ValueError(f"config: got block {config.block}, want {row}: a row of tile_softmax is one block")
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
    """Read the files of launch parameters again at the next launch."""
    _launch_config.cache_clear()


def current_arch() -> int:
    """Compute capability of the current GPU as 80, 90, ...; 90 without one."""
    return _arch_of(torch.cuda.current_device()) if torch.cuda.is_available() else 90


@functools.cache
def _arch_of(device: int) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
