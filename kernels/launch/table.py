"""The launch parameters of every Triton kernel on each architecture, and the files that override them.

Parameters come from the first of these that has (architecture, op, element size): `DMPO_LAUNCH_JSON` (an environment
variable with the path of a file), the autotune cache (written by `kernels/autotune.py`, only on request), `TABLE`. A
process reads the files once, at its first launch. Both have the same form:
`{"sm_90": {"ce_forward": {"2": {"block": 8192, "num_warps": 8, "num_stages": 1}}}}`, where "2" is the size of an
element in bytes. A row of "tile_softmax" is one block: a block below the width of its tile has no effect.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

ARCHITECTURES = (80, 90, 100)
OverrideTable = dict[str, dict[str, dict[str, "LaunchConfig"]]]


@dataclass(frozen=True)
class LaunchConfig:
    """block: elements of a row that a program handles in one step, a power of two; num_warps; num_stages."""

    block: int
    num_warps: int
    num_stages: int = 1


# op -> element size -> parameters. Every thread then has 2 to 4 independent 16-byte loads in flight.
_COMMON: dict[str, dict[int, LaunchConfig]] = {
    "ce_forward": {2: LaunchConfig(8192, 8), 4: LaunchConfig(4096, 8)},
    "ce_backward": {2: LaunchConfig(8192, 8), 4: LaunchConfig(4096, 8)},
    "tile_softmax": {2: LaunchConfig(8192, 8), 4: LaunchConfig(8192, 8)},
    "sample_tiles": {2: LaunchConfig(4096, 8), 4: LaunchConfig(4096, 8)},  # the draw reads one tile of a block again
}

# Parameters that differ by architecture. Two are measured: on an NVIDIA H200, 2026-11-27, 1024 rows of LLaDA's
# vocabulary in bfloat16, 4 warps draw 1.99 times faster than 8, and a block of 4096 makes the forward 1.18 times faster
# than 8192 (benchmarks/results/nvidia-h200/gpu.md, part tuning). The others are predictions. One forward program reads
# its whole row. With few rows, a multiprocessor has one block of loads in flight. To hide a load's latency of about 0.6
# microseconds takes bandwidth · latency / multiprocessors bytes: 11 KB on an A100 (2.0 TB/s, 108), 15 KB on an H100
# (3.35 TB/s, 132), 32 KB on a B200 (8 TB/s, 148). A block of 16 KB is enough for the first two. A multiprocessor has
# the same registers (64 K) and threads (2048) on all three, and shared memory is for reductions only. The other kernels
# launch many programs a row, which overlap, so they need no other block.
_OWN: dict[int, dict[str, dict[int, LaunchConfig]]] = {
    90: {
        "ce_forward": {2: LaunchConfig(4096, 8), 4: LaunchConfig(4096, 8)},
        "sample_tiles": {2: LaunchConfig(4096, 4), 4: LaunchConfig(4096, 8)},
    },
    100: {"ce_forward": {2: LaunchConfig(16384, 16), 4: LaunchConfig(8192, 16)}},
}
TABLE = {arch: _COMMON | _OWN.get(arch, {}) for arch in ARCHITECTURES}


def nearest_architecture(arch: int) -> int:
    """The newest of ARCHITECTURES that is not newer than `arch`; the first one for an older `arch`."""
    return max((a for a in ARCHITECTURES if a <= arch), default=ARCHITECTURES[0])


def legal(config: LaunchConfig) -> bool:
    """Whether block and num_warps are powers of two."""
    return all(n >= 1 and not n & (n - 1) for n in (config.block, config.num_warps))


def cache_file() -> Path:
    """The file in which `autotune.autotune` stores parameters, below XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dmpo" / "launch.json"


def _override_files(named: str) -> list[Path]:
    if named and not Path(named).is_file():
        raise ValueError(f"DMPO_LAUNCH_JSON: no file {named!r}; want a JSON file of launch parameters")
    files = [Path(named)] if named else []
    return [*files, cache_file()]


def override_tables(named: str) -> Iterator[OverrideTable]:
    """The tables of the files that exist, in order of precedence; `named` is DMPO_LAUNCH_JSON.

    Raises ValueError for a file that is missing or broken, or that names an unknown architecture, op or element size.
    """
    for path in _override_files(named):
        if path.is_file():
            yield _read_table(path)


def _read_table(path: Path) -> OverrideTable:
    try:
        raw = json.loads(path.read_text())
        table = {a: {o: {s: LaunchConfig(**c) for s, c in v.items()} for o, v in ops.items()} for a, ops in raw.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"launch parameters in {path}: {error}; want the form shown in dmpo/kernels/launch/table.py"
        ) from error
    for arch, ops in table.items():
        _check_key(path, arch, [f"sm_{known}" for known in ARCHITECTURES])
        for op, sizes in ops.items():
            _check_key(path, op, TABLE[ARCHITECTURES[0]])
            for size, config in sizes.items():
                _check_key(path, size, ("2", "4"))
                if not legal(config):
                    raise ValueError(f"{path}, {arch}, {op}: got {config}, want block and num_warps powers of two")
    return table


def _check_key(path: Path, key: str, known: Collection[str]) -> None:
    if key not in known:
        raise ValueError(f"launch parameters in {path}: got {key!r}, want one of {', '.join(known)}")
