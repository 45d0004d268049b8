"""Triton steps between the two matrix products of linear cross-entropy: a tile of logits becomes probabilities or a
gradient.

A tile is float32 [R, columns] with rows `pitch` elements apart, a multiple of PITCH, so loads stay 16 bytes wide at
any vocabulary; one program handles one row of it, read once and written once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import launch
from .launch import ProductionKernel, jit, production_kernel, tl
from .masked_ce_triton import narrow, rounds_by_hand

PITCH = 16  # elements; Triton sees no alignment in a stride that 16 does not divide
VEC = 4  # float32 elements of a 16-byte access
FP16_BOOST = 10.0  # float16 probabilities are stored times e^10: normal numbers down to 3e-9 of the row's maximum


@jit
def _tile_softmax_kernel(  # type: ignore[no-untyped-def]
    tile, probs, targets, chosen, row_max, total, alpha, peak,
    first, columns, pitch, probs_pitch,
    BOOST: tl.constexpr, VEC: tl.constexpr, LANES: tl.constexpr, ROUND: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """One online-softmax step of one row (Milakov & Gimelshein 2018): exp(x - max), stored if KEEP, the factor alpha
    for what came before, Σ.

    The target's own probability is stored as 0: its share of the gradient, 1 - p, is formed in float32 by the caller.
    """
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, LANES)[:, None]
    column = lanes * VEC + tl.arange(0, VEC)[None, :]
    inside = column < columns
    x = tl.load(tile + row * pitch + column, mask=lanes * VEC < columns, other=float("-inf"))
    x = tl.where(inside, x, float("-inf"))
    old = tl.load(row_max + row)
    new = tl.maximum(old, tl.max(tl.max(x, 1), 0))
    shift = tl.where(new == float("-inf"), 0.0, new)
    p = tl.exp(x - shift + BOOST)
    factor = tl.exp(old - shift)
    target = tl.load(targets + row) - first
    here = (target >= 0) & (target < columns)
    tl.store(chosen + row, tl.load(tile + row * pitch + target, mask=here, other=0.0), mask=here)
    tl.store(total + row, tl.load(total + row) * factor + tl.sum(tl.sum(p, 1), 0))
    tl.store(row_max + row, new)
    tl.store(alpha + row, factor)
    tl.store(peak + row, tl.max(tl.max(p, 1), 0))
    if KEEP:
        out = narrow(tl.where(column == target, 0.0, p), probs.dtype.element_ty, ROUND)
        tl.store(probs + row * probs_pitch + column, out, mask=lanes * VEC < columns)


@jit
def _tile_gradient_kernel(  # type: ignore[no-untyped-def]
    tile, gradient, targets, row_max, log_sum, factor,
    first, columns, pitch, gradient_pitch,
    VEC: tl.constexpr, LANES: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    """c · (onehot - softmax) of one block of one row of a tile, with the row's final maximum and logarithm of the
    sum."""
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.program_id(1) * LANES + tl.arange(0, LANES)[:, None]
    column = lanes * VEC + tl.arange(0, VEC)[None, :]
    x = tl.load(tile + row * pitch + column, mask=lanes * VEC < columns, other=0.0)
    p = tl.exp((x - tl.load(row_max + row)) - tl.load(log_sum + row))
    target = tl.load(targets + row) - first
    dx = tl.load(factor + row) * tl.where(column == target, 1.0 - p, -p)
    tl.store(
        gradient + row * gradient_pitch + column,
        narrow(dx, gradient.dtype.element_ty, ROUND),
        mask=lanes * VEC < columns,
    )


def boost(dtype: torch.dtype) -> float:
    """Exponent added before probabilities are rounded to `dtype`."""
    return FP16_BOOST if dtype == torch.float16 else 0.0


def tile_softmax(
    tile: Tensor,
    probs: Tensor | None,
    targets: Tensor,
    chosen: Tensor,
    row_max: Tensor,
    total: Tensor,
    alpha: Tensor,
    peak: Tensor,
    first: int,
) -> None:
    """Step every row of `tile` into `probs` (which may be the same memory), if given; updates the [R] statistics in
    place."""
    rows, columns = tile.shape
    out = tile if probs is None else probs
    config = launch.launch_config("tile_softmax", columns, torch.float32)
    block = max(config.block, 1 << (columns - 1).bit_length())  # a row is one block
    _tile_softmax_kernel[(rows,)](
        tile, out, targets, chosen, row_max, total, alpha, peak, first, columns, tile.stride(0), out.stride(0),
        BOOST=boost(out.dtype), VEC=VEC, LANES=block // VEC, ROUND=rounds_by_hand(out.dtype), KEEP=probs is not None,
        num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip


def tile_gradient(
    tile: Tensor, gradient: Tensor, targets: Tensor, row_max: Tensor, log_sum: Tensor, factor: Tensor, first: int
) -> None:
    """Write c · (onehot - softmax) of every row of `tile` into `gradient` (which may be the same memory)."""
    rows, columns = tile.shape
    config = launch.launch_config("ce_backward", columns, torch.float32)
    _tile_gradient_kernel[(rows, -(-columns // config.block))](
        tile, gradient, targets, row_max, log_sum, factor, first, columns, tile.stride(0), gradient.stride(0),
        VEC=VEC, LANES=config.block // VEC, ROUND=rounds_by_hand(gradient.dtype),
        num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip


def production(arch: int) -> list[ProductionKernel]:
    """Every kernel of this file as launched on sm_`arch`: a whole tile, the vocabulary's last, one column."""
    statistics = ("chosen", "row_max", "total", "alpha", "peak", "log_sum", "factor")
    types = dict.fromkeys((*statistics, "tile"), "*fp32") | {"targets": "*i64"}
    found = []
    for short, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)):
        named = types | {"probs": f"*{short}", "gradient": f"*{short}"}
        for tile, (first, columns) in {"": (0, 8192), "_last": (122881, 3583), "_one": (8193, 1)}.items():
            integers = dict.fromkeys(("pitch", "probs_pitch", "gradient_pitch"), 8192)
            integers |= {"first": first, "columns": columns}
            for name, op, fn in (
                ("tile_softmax", "tile_softmax", _tile_softmax_kernel),
                ("tile_log_sum", "tile_softmax", _tile_softmax_kernel),  # no gradient follows: probabilities not kept
                ("tile_gradient", "ce_backward", _tile_gradient_kernel),
            ):
                if name == "tile_log_sum" and dtype != torch.float32:
                    continue
                config = launch.launch_config(op, columns, torch.float32, arch)
                constants = {"BOOST": boost(dtype), "VEC": VEC, "LANES": config.block // VEC, "ROUND": False}
                constants["KEEP"] = name == "tile_softmax"
                found.append(
                    production_kernel(
                        f"{name}_{short}{tile}", fn, arch, named, constants, config,
                        integers=integers, wide_loads=columns > 1,
                    )
                )  # fmt: skip
    return found
