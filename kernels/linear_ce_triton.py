"""Triton steps between the two matrix products of linear cross-entropy: a tile of logits becomes probabilities or a
gradient.

A tile is float32 [R, columns] with rows `pitch` elements apart, a multiple of PITCH, so loads stay 16 bytes wide at
any vocabulary; one program handles one row of it, read once and written once.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from . import launch
from .launch import ProductionKernel, jit, production_kernel, tl
from .masked_ce_triton import narrow, rounds_by_hand

PITCH = 16  # elements; Triton sees no alignment in a stride that 16 does not divide
VEC = 4  # float32 elements of a 16-byte access
SPAN = 4096  # elements of a row of hidden size that one step of `_tile_softmax_kernel` handles; fewer take registers
FINISH_SPAN, FINISH_WARPS = 1024, 4  # the same of `_finish_kernel`
FP16_BOOST = 10.0  # float16 probabilities are stored times e^10: normal numbers down to 3e-9 of the row's maximum


@jit
def _tile_softmax_kernel(  # type: ignore[no-untyped-def]
    tile, probs, gradient, targets, chosen, row_max, total, peak,
    first, columns, pitch, probs_pitch, size,
    BOOST: tl.constexpr, VEC: tl.constexpr, LANES: tl.constexpr, ROUND: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """One online-softmax step of one row (Milakov & Gimelshein 2018): exp(x - max), stored if `probs` is given, and Σ.

    What came before shrinks by exp(old max - max): the sum, and the row of `gradient` if it is given; where the maximum
    stays, that row is not touched. At the first tile nothing came before, and nothing is read of it. The target's own
    probability is stored as 0: its share of the gradient, 1 - p, is formed in float32 by `_finish_kernel`.
    """
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, LANES)[:, None]
    column = lanes * VEC + tl.arange(0, VEC)[None, :]
    inside = column < columns
    x = tl.load(tile + row * pitch + column, mask=lanes * VEC < columns, other=float("-inf"))
    x = tl.where(inside, x, float("-inf"))
    old = tl.load(row_max + row, mask=first > 0, other=float("-inf"))
    new = tl.maximum(old, tl.max(tl.max(x, 1), 0))
    shift = tl.where(new == float("-inf"), 0.0, new)
    p = tl.exp(x - shift + BOOST)
    factor = tl.exp(old - shift)
    target = tl.load(targets + row) - first
    here = (target >= 0) & (target < columns)
    logit = tl.load(tile + row * pitch + target, mask=here, other=float("nan"))  # stays NaN for targets outside [0, V)
    tl.store(chosen + row, logit, mask=here | (first == 0))
    before = tl.load(total + row, mask=first > 0, other=0.0)
    tl.store(total + row, before * factor + tl.sum(tl.sum(p, 1), 0))
    tl.store(row_max + row, new)
    if peak is not None:
        tl.store(peak + row, tl.max(tl.max(p, 1), 0))
    if probs is not None:
        out = narrow(tl.where(column == target, 0.0, p), probs.dtype.element_ty, ROUND)
        tl.store(probs + row * probs_pitch + column, out, mask=lanes * VEC < columns)
    if gradient is not None:  # noqa: SIM102 - Triton decides this branch at compile time
        if factor != 1.0:
            for start in range(0, size, SPAN):
                at = start + tl.arange(0, SPAN)
                sums = tl.load(gradient + row * size + at, mask=at < size, other=0.0)
                tl.store(gradient + row * size + at, sums * factor, mask=at < size)


@jit
def _one_minus_exp(x):  # type: ignore[no-untyped-def]
    """1 - e^x in float32 for x <= 0; a series where the difference would lose digits."""
    series = 1.0 + x * (1.0 / 9.0)
    for i in tl.static_range(8, 1, -1):
        series = 1.0 + x * (1.0 / i) * series
    return tl.where(x > -0.5, -x * series, 1.0 - tl.exp(x))


@jit
def _finish_kernel(  # type: ignore[no-untyped-def]
    weight, gradient, targets, log_probs, row_max, log_sum, c,
    vocab, weight_row, weight_column, size,
    BOOST: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """After the last tile: a row's log_probs, so far its target's logit, and log_sum, so far Σ, become what they say.

    Its row of `gradient`, if there is one, is Σ_{v ≠ y} p̃·w_v so far and becomes c · d log p / d hidden =
    c·(1 - p_y)·w_y - c·Σ_{v ≠ y} p_v·w_v; c is 1 where it is not given.
    """
    row = tl.program_id(0).to(tl.int64)
    total = tl.load(log_sum + row)
    log_total = tl.log(total) - BOOST
    log_prob = (tl.load(log_probs + row) - tl.load(row_max + row)) - log_total
    if gradient is not None:
        own = _one_minus_exp(log_prob)
        others = -1.0 / total
        if c is not None:
            scale = tl.load(c + row)
            own *= scale
            others *= scale
        target = tl.load(targets + row)
        target = tl.where((target >= 0) & (target < vocab), target, 0)  # one outside has a log_prob of NaN
        for start in range(0, size, SPAN):
            at = start + tl.arange(0, SPAN)
            w = tl.load(weight + target * weight_row + at * weight_column, mask=at < size, other=0.0).to(tl.float32)
            sums = tl.load(gradient + row * size + at, mask=at < size, other=0.0)
            tl.store(gradient + row * size + at, sums * others + w * own, mask=at < size)
    tl.store(log_probs + row, log_prob)
    tl.store(log_sum + row, log_total)


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
    gradient: Tensor | None,
    targets: Tensor,
    chosen: Tensor,
    row_max: Tensor,
    total: Tensor,
    peak: Tensor | None,
    first: int,
) -> None:
    """Step every row of `tile` into `probs` (which may be the same memory), if given.

    The statistics [R] are updated in place, and at first == 0 written; so is `gradient`, float32 [R, H], if given: its
    rows shrink as their maximum grows. `peak`, if given, takes the largest of exp(x - max)."""
    rows, columns = tile.shape
    dtype = tile.dtype if probs is None else probs.dtype
    config = launch.launch_config("tile_softmax", columns, torch.float32)
    block = max(config.block, 1 << (columns - 1).bit_length())  # a row is one block
    _tile_softmax_kernel[(rows,)](
        tile, probs, gradient, targets, chosen, row_max, total, peak,
        first, columns, tile.stride(0), tile.stride(0) if probs is None else probs.stride(0),
        0 if gradient is None else gradient.shape[1],
        BOOST=boost(dtype), VEC=VEC, LANES=block // VEC, ROUND=rounds_by_hand(dtype), SPAN=SPAN,
        num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip


def finish(
    weight: Tensor,
    gradient: Tensor | None,
    targets: Tensor,
    log_probs: Tensor,
    row_max: Tensor,
    log_sum: Tensor,
    c: Tensor | None,
    compute: torch.dtype,
) -> None:
    """After the last `tile_softmax`, whose chosen logits are in `log_probs` and whose sums are in `log_sum`: all three
    and `gradient` become their final values, in place. compute: the dtype of the probabilities."""
    _finish_kernel[(len(targets),)](
        weight, gradient, targets, log_probs, row_max, log_sum, c,
        len(weight), *weight.stride(), weight.shape[1],
        BOOST=0.0 if gradient is None else boost(compute), SPAN=FINISH_SPAN, num_warps=FINISH_WARPS,
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
    statistics = ("chosen", "row_max", "total", "peak", "log_sum", "log_probs", "factor", "c")
    types = dict.fromkeys((*statistics, "tile"), "*fp32") | {"targets": "*i64"}
    found = []
    for short, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)):
        named = types | {"probs": f"*{short}", "weight": f"*{short}"}
        for tile, (first, columns) in _TILES.items():
            integers = dict.fromkeys(("pitch", "probs_pitch", "gradient_pitch"), 8192)
            integers |= {"first": first, "columns": columns, "size": 4096}
            for name, (op, fn, absent) in _TILE_STEPS.items():
                if name == "tile_log_sum" and dtype != torch.float32:
                    continue  # no operand follows
                config = launch.launch_config(op, columns, torch.float32, arch)
                constants = {"BOOST": boost(dtype), "VEC": VEC, "LANES": config.block // VEC, "ROUND": False}
                constants |= {"SPAN": SPAN} | dict.fromkeys(absent)
                gradient = short if op == "ce_backward" else "fp32"
                found.append(
                    production_kernel(
                        f"{name}_{short}{tile}", fn, arch, named | {"gradient": f"*{gradient}"}, constants, config,
                        integers=integers, wide_loads=columns > 1,
                    )
                )  # fmt: skip
        for (rows, absent), size in itertools.product(_FINISHES.items(), (4096, 127)):
            config = launch.LaunchConfig(FINISH_SPAN, FINISH_WARPS)
            constants = {"BOOST": boost(dtype), "SPAN": FINISH_SPAN} | dict.fromkeys(absent)
            integers = {"vocab": 126464, "weight_row": size, "weight_column": 1, "size": size}
            found.append(
                production_kernel(
                    f"{rows}_{short}{'' if size == 4096 else '_odd'}", _finish_kernel, arch,
                    named | {"gradient": "*fp32"}, constants, config, integers=integers, wide_loads=False,
                )
            )  # fmt: skip
    return found


_TILES = {"": (8192, 8192), "_first": (0, 8192), "_last": (122881, 3583), "_one": (8193, 1), "_second": (1, 1)}
_TILE_STEPS = {  # name: op, kernel, arguments that are not given
    "tile_softmax": ("tile_softmax", _tile_softmax_kernel, ("peak",)),
    "tile_softmax_fresh": ("tile_softmax", _tile_softmax_kernel, ("peak", "gradient")),  # the first tile
    "tile_softmax_peak": ("tile_softmax", _tile_softmax_kernel, ()),  # with skip_below
    "tile_softmax_peak_fresh": ("tile_softmax", _tile_softmax_kernel, ("gradient",)),
    "tile_log_sum": ("tile_softmax", _tile_softmax_kernel, ("peak", "gradient", "probs")),  # no gradient follows
    "tile_gradient": ("ce_backward", _tile_gradient_kernel, ()),
}
_FINISHES = {"finish": (), "finish_unscaled": ("c",), "finish_log_sum": ("gradient", "c")}
