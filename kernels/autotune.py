"""The fastest launch parameters of an op on this machine: searched on request, stored where launches read them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from . import launch
from .launch.table import TABLE, LaunchConfig, cache_file, nearest_architecture
from .masked_ce import triton_kernels as masked_ce
from .sampling import sample_tokens


def autotune(
    op: str,
    vocab: int,
    dtype: torch.dtype,
    run: Callable[[], Any] | None = None,
    *,
    arch: int | None = None,
    timer: Callable[[Callable[[], Any]], float] | None = None,
) -> LaunchConfig:
    """Time `run()` under `override` for each block and warp count, store the fastest on disk, and return it.

    Nothing calls it by itself: call it on the machine that will run, as `autotune("ce_forward", 126464,
    torch.bfloat16)`. `run` is a function that launches `op`. Without it "ce_forward", "ce_backward" and "sample_tiles"
    are launched at `vocab` and `dtype`, on the current GPU or in the interpreter. This process and every later one
    launch the stored parameters. `timer` defaults to `triton.testing.do_bench` (milliseconds). Raises ValueError for
    another op without `run`.
    """
    arch = launch.current_arch() if arch is None else arch
    itemsize = max(2, dtype.itemsize)
    run = _job(op, vocab, dtype) if run is None else run
    if op == "tile_softmax":  # a row is one block
        blocks = [TABLE[nearest_architecture(arch)][op][4].block]
    else:
        blocks = [n for n in (1024, 2048, 4096, 8192, 16384) if n <= launch.longest_block(vocab)]
    candidates = [
        LaunchConfig(block, warps)
        for block in blocks
        for warps in (4, 8, 16)
        if 1 <= block * itemsize // (warps * 32 * 16) <= 8
    ] or [launch.launch_config(op, vocab, dtype, arch)]
    clock = launch.triton.testing.do_bench if timer is None else timer
    times = []
    for config in candidates:
        with launch.override(op, config):
            times.append(clock(run))
    best = candidates[times.index(min(times))]
    path = cache_file()
    table = json.loads(path.read_text()) if path.is_file() else {}
    table.setdefault(f"sm_{nearest_architecture(arch)}", {}).setdefault(op, {})[str(itemsize)] = asdict(best)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}")
    scratch.write_text(json.dumps(table, indent=1))
    scratch.replace(path)
    launch.forget_files()
    return best


def _job(op: str, vocab: int, dtype: torch.dtype) -> Callable[[], Any]:
    """One launch of `op` and little else, on enough rows to fill a GPU; on two rows in the interpreter."""
    device, rows = ("cuda", 512) if torch.cuda.is_available() else ("cpu", 2)
    x = torch.randn(1, rows, vocab, device=device).to(dtype)
    if not launch.uses_triton(x):
        reason = launch.kernel_status(device)[1]
        raise ValueError(f"op: {op} of {dtype} runs no Triton kernel here ({reason}); tune it on a GPU")
    targets = torch.zeros(1, rows, dtype=torch.int64, device=device)
    if op == "sample_tiles":
        return lambda: sample_tokens(x[0], 1.0, seed=0)
    if op == "ce_forward":
        return lambda: masked_ce.forward(x, targets, None, None, None, 0.0)
    if op == "ce_backward":
        zeros, ones, out = x.new_zeros(1, rows).float(), x.new_ones(1, rows).float(), torch.empty_like(x)
        return lambda: masked_ce.backward(x, targets, None, zeros, zeros, ones, None, out)
    raise ValueError(f"op: got {op!r}, want ce_forward, ce_backward or sample_tiles, or a `run` that launches it")
