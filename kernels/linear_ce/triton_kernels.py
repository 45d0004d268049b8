"""Triton kernels between the two matrix products of linear cross-entropy. They turn a tile of logits into probabilities
or into a gradient.

A tile is float32 [R, columns]. Its rows are `pitch` elements apart, a multiple of PITCH, so loads are 16 bytes wide at
any vocabulary. One program handles one row of the tile, and reads and writes it once.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import launch
from ..launch import ProductionKernel, jit, production_kernel, tl
from ..masked_ce.triton_kernels import round_to, rounds_by_hand

PITCH = 16  # elements; Triton sees no alignment in a stride that 16 does not divide
VEC = 4  # float32 elements of a 16-byte access
SPAN = 4096  # elements of a row [H] that one step of `_tile_softmax_kernel` handles; fewer take more registers
FINISH_SPAN, FINISH_WARPS = 1024, 4  # such elements of a step of `_finish_kernel`, and its warps
FINISH_ROWS = 512  # rows that a program of `_finish_log_sum_kernel` handles
BLOCK = 8192  # columns of a tile that one program holds in registers
FP16_EXPONENT_SHIFT = (
    10.0  # float16 probabilities are stored times e^10: normal numbers down to 3e-9 of the row's maximum
)


@jit
def _shift_of(new):  # type: ignore[no-untyped-def]
    """The number to subtract from logits with the maximum `new`: 0 if all are -inf, because exp(-inf) is 0."""
    return tl.where(new == float("-inf"), 0.0, new)


@jit
def _carry(  # type: ignore[no-untyped-def]
    row, old, new, sums, logit, here, gradient, chosen, row_max, total, first, size, SPAN: tl.constexpr
):  # fmt: skip
    """Scale the results of earlier tiles by exp(old max - max): the sum, and the row of `gradient` if there is one. If
    the maximum stays the same, that row is not read. At the first tile there are no earlier results to read."""
    factor = tl.exp(old - _shift_of(new))
    tl.store(chosen + row, logit, mask=here | (first == 0))  # NaN stays for targets outside [0, V)
    before = tl.load(total + row, mask=first > 0, other=0.0)
    tl.store(total + row, before * factor + sums)
    tl.store(row_max + row, new)
    if gradient is not None:  # noqa: SIM102 - Triton decides this branch at compile time
        if factor != 1.0:
            for start in range(0, size, SPAN):
                at = start + tl.arange(0, SPAN)
                products = tl.load(gradient + row * size + at, mask=at < size, other=0.0)
                tl.store(gradient + row * size + at, products * factor, mask=at < size)


@jit
def _tile_softmax_kernel(  # type: ignore[no-untyped-def]
    tile, probs, gradient, targets, chosen, row_max, total,
    first, columns, pitch, probs_pitch, size,
    SHIFT: tl.constexpr, VEC: tl.constexpr, LANES: tl.constexpr, ROUND: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """One online-softmax step of one row (Milakov & Gimelshein 2018): exp(x - max), stored if `probs` is given, and Σ.

    The target's own probability is stored as 0: `_finish_kernel` computes its share of the gradient, 1 - p, in float32.
    """
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, LANES)[:, None]
    column = lanes * VEC + tl.arange(0, VEC)[None, :]
    x = tl.load(tile + row * pitch + column, mask=lanes * VEC < columns, other=float("-inf"))
    x = tl.where(column < columns, x, float("-inf"))
    old = tl.load(row_max + row, mask=first > 0, other=float("-inf"))
    new = tl.maximum(old, tl.max(tl.max(x, 1), 0))
    p = tl.exp(x - _shift_of(new) + SHIFT)
    target = tl.load(targets + row) - first
    here = (target >= 0) & (target < columns)
    logit = tl.load(tile + row * pitch + target, mask=here, other=float("nan"))
    sums = tl.sum(tl.sum(p, 1), 0)  # a barrier: the target's logit is read before `probs` overwrites it
    if probs is not None:
        out = round_to(tl.where(column == target, 0.0, p), probs.dtype.element_ty, ROUND)
        tl.store(probs + row * probs_pitch + column, out, mask=lanes * VEC < columns)
    _carry(row, old, new, sums, logit, here, gradient, chosen, row_max, total, first, size, SPAN)


@jit
def _wide_tile_softmax_kernel(  # type: ignore[no-untyped-def]
    tile, probs, gradient, targets, chosen, row_max, total,
    first, columns, pitch, probs_pitch, size,
    SHIFT: tl.constexpr, VEC: tl.constexpr, LANES: tl.constexpr, ROUND: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """The same step for a row of the tile that is longer than a block. The first loop over it computes the maximum and
    Σ, a second one, if `probs` is given, exp(x - max)."""
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, LANES)[:, None]
    within = tl.arange(0, VEC)[None, :]
    target = tl.load(targets + row) - first
    here = (target >= 0) & (target < columns)
    logit = tl.load(tile + row * pitch + target, mask=here, other=float("nan"))
    top = tl.full([LANES], float("-inf"), tl.float32)
    sums = tl.zeros([LANES], tl.float32)
    for start in range(0, columns, LANES * VEC):
        column = start + lanes * VEC + within
        x = tl.load(tile + row * pitch + column, mask=start + lanes * VEC < columns, other=float("-inf"))
        x = tl.where(column < columns, x, float("-inf"))
        new_top = tl.maximum(top, tl.max(x, 1))
        shift = _shift_of(new_top)
        sums = sums * tl.exp(top - shift) + tl.sum(tl.exp(x - shift[:, None]), 1)
        top = new_top
    old = tl.load(row_max + row, mask=first > 0, other=float("-inf"))
    new = tl.maximum(old, tl.max(top, 0))
    whole = tl.sum(sums * tl.exp(top - _shift_of(new) + SHIFT), 0)  # a barrier, as above
    if probs is not None:
        for start in range(0, columns, LANES * VEC):
            column = start + lanes * VEC + within
            x = tl.load(tile + row * pitch + column, mask=start + lanes * VEC < columns, other=float("-inf"))
            p = tl.where(column == target, 0.0, tl.exp(x - _shift_of(new) + SHIFT))
            out = round_to(p, probs.dtype.element_ty, ROUND)
            tl.store(probs + row * probs_pitch + column, out, mask=start + lanes * VEC < columns)
    _carry(row, old, new, whole, logit, here, gradient, chosen, row_max, total, first, size, SPAN)


@jit
def _one_minus_exp(x):  # type: ignore[no-untyped-def]
    """1 - e^x in float32 for x <= 0, by a series where the difference would lose digits."""
    series = 1.0 + x * (1.0 / 9.0)
    for i in tl.static_range(8, 1, -1):
        series = 1.0 + x * (1.0 / i) * series
    return tl.where(x > -0.5, -x * series, 1.0 - tl.exp(x))


@jit
def _finish_kernel(  # type: ignore[no-untyped-def]
    weight, gradient, targets, log_probs, row_max, log_sum, row_scale,
    vocab, weight_row, weight_column, size,
    SHIFT: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """After the last tile: turn a row's log_probs from the target's logit into log p, its log_sum from Σ into log Σ.

    Turn its row of `gradient` from Σ_{v ≠ y} p̃·w_v into s · d log p / d hidden =
    s·(1 - p_y)·w_y - s·Σ_{v ≠ y} p_v·w_v, where s is the row's scale (None: 1).
    """
    row = tl.program_id(0).to(tl.int64)
    total = tl.load(log_sum + row)
    log_total = tl.log(total) - SHIFT
    log_prob = (tl.load(log_probs + row) - tl.load(row_max + row)) - log_total
    own = _one_minus_exp(log_prob)
    others = -1.0 / total
    if row_scale is not None:
        scale = tl.load(row_scale + row)
        own *= scale
        others *= scale
    target = tl.load(targets + row)
    target = tl.where((target >= 0) & (target < vocab), target, 0)  # a target outside has a log_prob of NaN
    for start in range(0, size, SPAN):
        at = start + tl.arange(0, SPAN)
        w = tl.load(weight + target * weight_row + at * weight_column, mask=at < size, other=0.0).to(tl.float32)
        sums = tl.load(gradient + row * size + at, mask=at < size, other=0.0)
        tl.store(gradient + row * size + at, sums * others + w * own, mask=at < size)
    tl.store(log_probs + row, log_prob)
    tl.store(log_sum + row, log_total)


@partial(jit, do_not_specialize=("rows",))
def _finish_log_sum_kernel(log_probs, row_max, log_sum, rows, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """The same for BLOCK rows without a gradient; nothing was added to exponents."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    log_total = tl.log(tl.load(log_sum + row, mask=row < rows, other=1.0))
    logit = tl.load(log_probs + row, mask=row < rows, other=0.0)
    top = tl.load(row_max + row, mask=row < rows, other=0.0)
    tl.store(log_probs + row, (logit - top) - log_total, mask=row < rows)
    tl.store(log_sum + row, log_total, mask=row < rows)


@jit
def _tile_gradient_kernel(  # type: ignore[no-untyped-def]
    tile, gradient, targets, row_max, log_sum, row_scale,
    first, columns, pitch, gradient_pitch,
    VEC: tl.constexpr, LANES: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    """row_scale · (onehot - softmax) of one block of one row of a tile, from the row's final maximum and log-sum."""
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.program_id(1) * LANES + tl.arange(0, LANES)[:, None]
    column = lanes * VEC + tl.arange(0, VEC)[None, :]
    x = tl.load(tile + row * pitch + column, mask=lanes * VEC < columns, other=0.0)
    p = tl.exp((x - tl.load(row_max + row)) - tl.load(log_sum + row))
    target = tl.load(targets + row) - first
    dx = tl.load(row_scale + row) * tl.where(column == target, 1.0 - p, -p)
    tl.store(
        gradient + row * gradient_pitch + column,
        round_to(dx, gradient.dtype.element_ty, ROUND),
        mask=lanes * VEC < columns,
    )


def fp16_exponent_shift(dtype: torch.dtype) -> float:
    """The number added to exponents before probabilities are rounded to `dtype`."""
    return FP16_EXPONENT_SHIFT if dtype == torch.float16 else 0.0


def tile_softmax(
    tile: Tensor,
    probs: Tensor | None,
    gradient: Tensor | None,
    targets: Tensor,
    chosen: Tensor,
    row_max: Tensor,
    total: Tensor,
    first: int,
) -> None:
    """One online-softmax step of every row of `tile`, into `probs` (which may be the same memory) if given.

    The statistics [R] are updated in place; at first == 0 they are written. The rows of `gradient`, float32 [R, H], if
    given, are scaled down as their maximum grows."""
    rows, columns = tile.shape
    dtype = tile.dtype if probs is None else probs.dtype
    config = launch.launch_config("tile_softmax", min(columns, BLOCK), torch.float32)
    kernel = _tile_softmax_kernel if columns <= BLOCK else _wide_tile_softmax_kernel
    block = max(config.block, 1 << (min(columns, BLOCK) - 1).bit_length())
    kernel[(rows,)](
        tile, probs, gradient, targets, chosen, row_max, total,
        first, columns, tile.stride(0), tile.stride(0) if probs is None else probs.stride(0),
        0 if gradient is None else gradient.shape[1],
        SHIFT=fp16_exponent_shift(dtype), VEC=VEC, LANES=block // VEC, ROUND=rounds_by_hand(dtype), SPAN=SPAN,
        num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip


def finish(
    weight: Tensor,
    gradient: Tensor | None,
    targets: Tensor,
    log_probs: Tensor,
    row_max: Tensor,
    log_sum: Tensor,
    row_scale: Tensor | None,
    compute: torch.dtype,
) -> None:
    """After the last `tile_softmax`, which left chosen logits in `log_probs` and sums in `log_sum`: give `log_probs`,
    `log_sum` and `gradient` their final values, in place. compute: the dtype of the probabilities."""
    rows = len(targets)
    if gradient is None:
        _finish_log_sum_kernel[(-(-rows // FINISH_ROWS),)](
            log_probs, row_max, log_sum, rows, BLOCK=FINISH_ROWS, num_warps=FINISH_WARPS
        )
        return
    _finish_kernel[(rows,)](
        weight, gradient, targets, log_probs, row_max, log_sum, row_scale,
        len(weight), *weight.stride(), weight.shape[1],
        SHIFT=fp16_exponent_shift(compute), SPAN=FINISH_SPAN, num_warps=FINISH_WARPS,
    )  # fmt: skip


def tile_gradient(
    tile: Tensor, gradient: Tensor, targets: Tensor, row_max: Tensor, log_sum: Tensor, row_scale: Tensor, first: int
) -> None:
    """Write row_scale · (onehot - softmax) of every row of `tile` into `gradient` (which may be the same memory)."""
    rows, columns = tile.shape
    config = launch.launch_config("ce_backward", columns, torch.float32)
    _tile_gradient_kernel[(rows, -(-columns // config.block))](
        tile, gradient, targets, row_max, log_sum, row_scale, first, columns, tile.stride(0), gradient.stride(0),
        VEC=VEC, LANES=config.block // VEC, ROUND=rounds_by_hand(gradient.dtype),
        num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip


def production(arch: int) -> list[ProductionKernel]:
    """Every kernel of this file as launched on sm_`arch`: a whole tile, the vocabulary's last tile, one column, and a
    tile with more columns than a block."""
    statistics = ("chosen", "row_max", "total", "log_sum", "log_probs", "row_scale")
    types = dict.fromkeys((*statistics, "tile"), "*fp32") | {"targets": "*i64"}
    kernels = []
    for short, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)):
        named = types | {"probs": f"*{short}", "weight": f"*{short}"}
        for tile, (first, columns) in _TILES.items():
            pitch = max(BLOCK, -(-columns // PITCH) * PITCH)
            integers = dict.fromkeys(("pitch", "probs_pitch", "gradient_pitch"), pitch)
            integers |= {"first": first, "columns": columns, "size": 4096}
            for name, (op, fn, absent) in _TILE_STEPS.items():
                if name == "tile_log_sum" and dtype != torch.float32:
                    continue  # no operand follows
                if op == "tile_softmax" and columns > BLOCK:
                    fn = _wide_tile_softmax_kernel
                config = launch.launch_config(op, min(columns, BLOCK), torch.float32, arch)
                constants: dict[str, Any] = {
                    "SHIFT": fp16_exponent_shift(dtype),
                    "VEC": VEC,
                    "LANES": config.block // VEC,
                }
                constants |= {"ROUND": False, "SPAN": SPAN, **dict.fromkeys(absent)}
                gradient = short if op == "ce_backward" else "fp32"
                kernels.append(
                    production_kernel(
                        f"{name}_{short}{tile}", fn, arch, named | {"gradient": f"*{gradient}"}, constants, config,
                        integers=integers, wide_loads=columns > 1,
                    )
                )  # fmt: skip
        for (rows, absent), size in itertools.product(_FINISHES.items(), (4096, 127)):
            config = launch.LaunchConfig(FINISH_SPAN, FINISH_WARPS)
            constants = {"SHIFT": fp16_exponent_shift(dtype), "SPAN": FINISH_SPAN, **dict.fromkeys(absent)}
            integers = {"vocab": 126464, "weight_row": size, "weight_column": 1, "size": size}
            kernels.append(
                production_kernel(
                    f"{rows}_{short}{'' if size == 4096 else '_odd'}", _finish_kernel, arch,
                    named | {"gradient": "*fp32"}, constants, config, integers=integers, wide_loads=False,
                )
            )  # fmt: skip
    config = launch.LaunchConfig(FINISH_ROWS, FINISH_WARPS)
    kernels.append(
        production_kernel(
            "finish_log_sum", _finish_log_sum_kernel, arch, types | {"rows": "i32"}, {"BLOCK": FINISH_ROWS}, config,
            unaligned=("rows",), wide_loads=False,
        )
    )  # fmt: skip
    return kernels


_TILES = {
    "": (8192, 8192),
    "_first": (0, 8192),
    "_last": (122881, 3583),
    "_one": (8193, 1),
    "_second": (1, 1),
    "_wide": (63232, 63232),
    "_wide_first": (0, 126464),
    "_wide_last": (105440, 21023),
}
_TILE_STEPS = {  # name: op, kernel, absent arguments
    "tile_softmax": ("tile_softmax", _tile_softmax_kernel, ()),
    "tile_softmax_fresh": ("tile_softmax", _tile_softmax_kernel, ("gradient",)),  # the first tile
    "tile_log_sum": ("tile_softmax", _tile_softmax_kernel, ("gradient", "probs")),  # no gradient follows
    "tile_gradient": ("ce_backward", _tile_gradient_kernel, ()),
}
_FINISHES = {"finish": (), "finish_unscaled": ("row_scale",)}
