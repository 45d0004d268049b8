"""The two-level token draw in Triton: all logits are read once, and one tile of each row is read again.

`_tile_stats` reduces every vocabulary tile of every row to a maximum and a sum of exponentials (and to a sum at T, if T
is neither 0 nor 1). `_draw` merges a row's tiles, takes a tile by its mass, reads that tile again and takes a token of
it. To choose by tile mass and then inside the tile is inverse-CDF sampling over the whole row: exact, with one uniform
a row. Traffic a row: V + BLOCK logits read, and 8 to 16 bytes a tile written and read for the sums.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language import constexpr

from ..launch import LaunchConfig, ProductionKernel, launch_config, on_device, production_kernel
from ..random_numbers import seed_key

ARGMAX, PLAIN, TEMPERED, GUMBEL = 0, 1, 2, 3  # T = 0; T = 1; any other T; per-element oracle
STATS = {ARGMAX: 2, PLAIN: 2, TEMPERED: 3, GUMBEL: 4}  # float32 numbers stored for a tile; with entropy one more
RUN = 64  # tokens; the draw inside a tile takes a run of this length, then a token of the run

BY_VALUE = 4  # forbidden ids that are arguments of a launch; further ones are in a table on the device
_FORBID = tuple(f"forbid_{i}" for i in range(BY_VALUE))
_PLAIN_NUMBERS = ["key", "n_more", "fallback", *_FORBID]  # one compilation serves all their values

_ARGMAX, _TEMPERED, _GUMBEL = tl.constexpr(ARGMAX), tl.constexpr(TEMPERED), tl.constexpr(GUMBEL)
_LARGEST = tl.constexpr(torch.finfo(torch.float32).max)
_GAMMA = tl.constexpr(0x9E3779B97F4A7C15)


@triton.jit
def _mix(x):  # type: ignore[no-untyped-def]
    """splitmix64 finaliser on uint64, as `random_numbers._mix`."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit
def _row_state(row_ids, row, key):  # type: ignore[no-untyped-def]
    row_id = row
    if row_ids is not None:
        row_id = tl.load(row_ids + row)
    return _mix(_mix(row_id.to(tl.uint64)) ^ key.to(tl.uint64))


@triton.jit
def _exponential(state, index):  # type: ignore[no-untyped-def]
    """-log(1 - u) in float32 from 63 bits; a series for small u, which loses no digits."""
    bits = _mix(state + (index + 1).to(tl.uint64) * _GAMMA) & 0x7FFFFFFFFFFFFFFF
    u = tl.minimum((bits.to(tl.float32) + 0.5) * 1.0842021724855044e-19, 1.0 - 5.9604644775390625e-8)
    return tl.where(u < 0.03125, u * (1.0 + u * (0.5 + u * (0.33333333 + u * 0.25))), -tl.log(1.0 - u))


@triton.jit
def _without(x, lane, token, BLOCK: constexpr):  # type: ignore[no-untyped-def]
    """`x` with -inf at `token`, counted from the start of the tile; `x` itself if the token is outside the tile."""
    if (token >= 0) & (token < BLOCK):
        x = tl.where(lane == token, float("-inf"), x)
    return x


@triton.jit
def _tile(  # type: ignore[no-untyped-def]
    logits, stride, row, tile, forbid_0, forbid_1, forbid_2, forbid_3, more, n_more, vocab, BLOCK: constexpr
):  # fmt: skip
    """One tile of a row in float32: -inf beyond the vocabulary and at forbidden ids; +inf becomes the largest number,
    NaN stays."""
    lane, first = tl.arange(0, BLOCK), tile * BLOCK
    x = tl.load(logits + row * stride + (first + lane), mask=first + lane < vocab, other=float("-inf")).to(tl.float32)
    if forbid_0 is not None:
        x = _without(x, lane, forbid_0 - first, BLOCK)
    if forbid_1 is not None:
        x = _without(x, lane, forbid_1 - first, BLOCK)
    if forbid_2 is not None:
        x = _without(x, lane, forbid_2 - first, BLOCK)
    if forbid_3 is not None:
        x = _without(x, lane, forbid_3 - first, BLOCK)
    if more is not None:
        for i in range(n_more):
            x = _without(x, lane, (tl.load(more + i) - first).to(tl.int32), BLOCK)
    return tl.minimum(x, _LARGEST, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _of_row(stats, row, tiles, MODE: constexpr, ENTROPY: constexpr):  # type: ignore[no-untyped-def]
    """The address of a row's figures: STATS[MODE] figures for each tile, and with ENTROPY one more."""
    return stats + row * tiles * ((2 if MODE < _TEMPERED else MODE + 1) + ENTROPY)


@triton.jit
def _pick(weights, u, SIZE: constexpr):  # type: ignore[no-untyped-def]
    """First index of positive weight whose cumulative weight exceeds u * total, and the remainder of u inside it."""
    lane = tl.arange(0, SIZE)
    weights = weights.to(tl.float64)
    cum = tl.cumsum(weights, 0)
    goal = u * tl.max(cum, 0)
    live = weights > 0
    first = tl.min(tl.where(live & (cum > goal), lane, SIZE), 0)
    picked = tl.minimum(first, tl.max(tl.where(live, lane, 0), 0))  # u * total may round up to the total
    here = lane == picked
    weight = tl.sum(tl.where(here, weights, 0.0), 0)
    rest = (goal - tl.sum(tl.where(here, cum, 0.0), 0) + weight) / weight
    return picked, tl.minimum(tl.maximum(rest, 0.0), 1.0)


@triton.jit(do_not_specialize=_PLAIN_NUMBERS)
def _tile_stats(  # type: ignore[no-untyped-def]
    logits, stride, stats, forbid_0, forbid_1, forbid_2, forbid_3, more, n_more, row_ids, key, inv_t, vocab,
    MODE: constexpr, BLOCK: constexpr, ENTROPY: constexpr,
):  # fmt: skip
    tiles = tl.cdiv(vocab, BLOCK)
    program = tl.program_id(0)
    row, tile = (program // tiles).to(tl.int64), program % tiles
    x = _tile(logits, stride, row, tile, forbid_0, forbid_1, forbid_2, forbid_3, more, n_more, vocab, BLOCK)
    top = tl.max(x, 0)
    shifted = x - tl.where(top > float("-inf"), top, 0.0)
    out = _of_row(stats, row, tiles, MODE, ENTROPY) + tile
    tl.store(out, top)
    powers = tl.exp(shifted)
    tl.store(out + tiles, tl.sum(powers, 0))
    if ENTROPY:
        moment = tl.sum(tl.where(powers > 0, shifted * powers, 0.0), 0)  # -inf * 0 is NaN
        tl.store(out + (2 if MODE < _TEMPERED else MODE + 1) * tiles, moment)
    if MODE == _TEMPERED:
        tl.store(out + 2 * tiles, tl.sum(tl.exp(shifted * inv_t), 0))
    if MODE == _GUMBEL:
        lane = tl.arange(0, BLOCK)
        state = _row_state(row_ids, row, key)
        score = shifted * inv_t - tl.log(_exponential(state, tile * BLOCK + lane))
        best = tl.max(score, 0)
        tl.store(out + 2 * tiles, best)
        tl.store(out + 3 * tiles, tl.min(tl.where(score == best, lane, BLOCK - 1), 0).to(tl.float32))


@triton.jit(do_not_specialize=_PLAIN_NUMBERS)
def _draw(  # type: ignore[no-untyped-def]
    logits, stride, stats, forbid_0, forbid_1, forbid_2, forbid_3, more, n_more, row_ids, key, inv_t, vocab,
    ids, confidence, entropy, fallback,
    MODE: constexpr, BLOCK: constexpr, ENTROPY: constexpr, TILES: constexpr, RUN: constexpr,
):  # fmt: skip
    tiles = tl.cdiv(vocab, BLOCK)
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, TILES)
    live = lane < tiles
    at = _of_row(stats, row, tiles, MODE, ENTROPY) + lane
    tops = tl.load(at, mask=live, other=float("-inf"))
    sums = tl.load(at + tiles, mask=live, other=0.0)
    top = tl.max(tops, 0)
    shifted = tl.where(live & (tops > float("-inf")), tops - top, float("-inf"))
    total = tl.sum(sums * tl.exp(shifted), 0)  # NaN if the row has a NaN: NaN * 0 is NaN
    if ENTROPY:
        # H = log S - W / S over the row, as `plain.entropy_of`
        scales = tl.exp(shifted)
        masses = sums * scales
        moments = tl.load(at + (2 if MODE < _TEMPERED else MODE + 1) * tiles, mask=live, other=0.0)
        moment = tl.sum(tl.where(masses > 0, moments * scales + shifted * masses, 0.0), 0)
        tl.store(entropy + row, tl.where(total > 0, tl.log(total) - moment / total, float("nan")))
    u = ((_row_state(row_ids, row, key) >> 11).to(tl.float64)) * 1.1102230246251565e-16

    if MODE == _ARGMAX:
        tile = tl.min(tl.where(tops == top, lane, TILES - 1), 0)
        rest = u
    elif MODE == _GUMBEL:
        scores = shifted * inv_t + tl.load(at + 2 * tiles, mask=live, other=0.0)
        tile = tl.min(tl.where(scores == tl.max(scores, 0), lane, TILES - 1), 0)
        rest = u
    else:
        if MODE == _TEMPERED:
            sums = tl.load(at + 2 * tiles, mask=live, other=0.0)
            shifted = shifted * inv_t
        tile, rest = _pick(sums * tl.exp(shifted), u, TILES)

    tile = tl.minimum(tile, tiles - 1)
    x = _tile(logits, stride, row, tile, forbid_0, forbid_1, forbid_2, forbid_3, more, n_more, vocab, BLOCK)
    lanes = tl.arange(0, BLOCK)
    tile_top = tl.max(x, 0)
    if MODE == _ARGMAX:
        token = tl.min(tl.where(x == tile_top, lanes, BLOCK - 1), 0)
    elif MODE == _GUMBEL:
        token = tl.load(_of_row(stats, row, tiles, MODE, ENTROPY) + 3 * tiles + tile).to(tl.int32)
    else:
        weights = x - tl.where(tile_top > float("-inf"), tile_top, 0.0)
        if MODE == _TEMPERED:
            weights = weights * inv_t
        # a run of RUN tokens, then a token of the run: two scans of some dozen numbers in place of one of BLOCK
        runs = tl.reshape(tl.exp(weights), [BLOCK // RUN, RUN])
        run, rest = _pick(tl.sum(runs, 1), rest, BLOCK // RUN)
        inside = tl.where(tl.arange(0, BLOCK // RUN)[:, None] == run, runs, 0.0)
        token, rest = _pick(tl.sum(inside, 0), rest, RUN)
        token += run * RUN
    logit = tl.sum(tl.where(lanes == token, x, 0.0), 0)
    has_distribution = total > 0  # false for NaN, and for a row with -inf alone
    tl.store(ids + row, tl.where(has_distribution, (tile * BLOCK + token).to(tl.int64), fallback))
    tl.store(confidence + row, tl.where(has_distribution, tl.exp(logit - top) / total, float("nan")))


def sample(
    logits: Tensor,
    temperature: float,
    seed: int,
    row_ids: Tensor | None,
    forbid: list[int],
    mode: str,
    entropy: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Launch both kernels on validated arguments. logits float32, float16 or bfloat16 [M, V], last stride 1.

    entropy: float32 [M], gets the entropy of each row; None: the kernels compute none.
    """
    rows, vocab = logits.shape
    ids = torch.empty(rows, dtype=torch.int64, device=logits.device)
    confidence = torch.empty(rows, dtype=torch.float32, device=logits.device)
    if rows == 0:
        return ids, confidence
    kind = ARGMAX if temperature == 0 else GUMBEL if mode == "gumbel" else PLAIN if temperature == 1 else TEMPERED
    config = launch_config("sample_tiles", vocab, logits.dtype)
    tiles = triton.cdiv(vocab, config.block)
    stats = torch.empty(rows, STATS[kind] + (entropy is not None), tiles, dtype=torch.float32, device=logits.device)
    fallback = min(set(range(len(forbid) + 1)) - set(forbid))
    by_value = (*forbid[:BY_VALUE], *[None] * (BY_VALUE - len(forbid)))
    more = _table(tuple(forbid[BY_VALUE:]), logits.device) if len(forbid) > BY_VALUE else None
    key, inv_t = seed_key(seed), 0.0 if temperature == 0 else 1.0 / temperature
    beyond = max(0, len(forbid) - BY_VALUE)
    shared = (logits, logits.stride(0), stats, *by_value, more, beyond, row_ids, key, inv_t, vocab)
    first, second = _constexprs(kind, config, tiles, entropy is not None)
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    with on_device(logits):
        _tile_stats[(rows * tiles,)](*shared, **first, **options)
        _draw[(rows,)](*shared, ids, confidence, entropy, fallback, **second, **options)
    return ids, confidence


@lru_cache(maxsize=64)
def _table(forbid: tuple[int, ...], device: torch.device) -> Tensor:
    """Forbidden ids on the device, copied once: before a CUDA graph is captured, draw once with the same ids."""
    return torch.tensor(forbid, dtype=torch.int64, device=device)


def _constexprs(kind: int, config: LaunchConfig, tiles: int, entropy: bool) -> tuple[dict[str, int], dict[str, int]]:
    """Compile-time arguments of `_tile_stats` (the same for T = 0 and T = 1) and of `_draw`."""
    both, padded = {"BLOCK": config.block, "ENTROPY": int(entropy)}, triton.next_power_of_2(tiles)
    return {"MODE": kind or PLAIN, **both}, {"MODE": kind, **both, "TILES": padded, "RUN": RUN}


def production(arch: int) -> list[ProductionKernel]:
    """Both kernels in every mode and dtype (the Gumbel oracle in bfloat16) at LLaDA's vocabulary, with row ids.

    "_odd": vocabulary and stride are no multiples of 16, so no load has 16 bytes. "_no_ids": random numbers without row
    ids. One id is forbidden, as in decoding; "_0", "_2" and so on: that number of ids by value; "_more": with a table.
    "_entropy": with the entropy of each row.
    """
    kernels = []
    for dtype, short in ((torch.bfloat16, "bf16"), (torch.float16, "fp16"), (torch.float32, "fp32")):
        for kind, mode in ((ARGMAX, "argmax"), (PLAIN, "plain"), (TEMPERED, "tempered"), (GUMBEL, "gumbel")):
            if kind == GUMBEL and dtype != torch.bfloat16:
                continue
            config = launch_config("sample_tiles", _LLADA_VOCAB, dtype, arch)
            tiles = triton.cdiv(_LLADA_VOCAB, config.block)
            first, second = _constexprs(kind, config, tiles, False)
            constexprs: dict[str, Any]
            for fn, constexprs in ((_tile_stats, first), (_draw, {**second, "entropy": None})):
                if fn is _tile_stats and kind == ARGMAX:
                    continue  # the same code as for T = 1
                name, types = f"sample{fn.__name__}_{mode}_{short}", {**_TYPES, "logits": f"*{short}"}
                make = partial(production_kernel, fn=fn, arch=arch, types=types, config=config)
                if dtype == torch.bfloat16 and kind != GUMBEL:
                    kernels.append(make(f"{name}_more", constexprs=constexprs, unaligned=_UNALIGNED))
                    for count in (0, *range(2, BY_VALUE + 1)):
                        few = {**constexprs, **dict.fromkeys((*_FORBID[count:], "more"))}
                        kernels.append(make(f"{name}_{count}", constexprs=few, unaligned=_UNALIGNED))
                constexprs = {**constexprs, **dict.fromkeys((*_FORBID[1:], "more"))}
                kernels.append(make(name, constexprs=constexprs, unaligned=_UNALIGNED))
                if kind != GUMBEL:
                    asked = dict(zip((_tile_stats, _draw), _constexprs(kind, config, tiles, True), strict=True))[fn]
                    asked = {**asked, **dict.fromkeys((*_FORBID[1:], "more"))}
                    kernels.append(make(f"{name}_entropy", constexprs=asked, unaligned=_UNALIGNED))
                odd = (*_UNALIGNED, "stride", "vocab")
                kernels.append(make(f"{name}_odd", constexprs=constexprs, unaligned=odd, wide_loads=False))
                if kind != ARGMAX and (fn is _tile_stats) == (kind == GUMBEL):
                    no_ids = {**constexprs, "row_ids": None}
                    kernels.append(make(f"{name}_no_ids", constexprs=no_ids, unaligned=_UNALIGNED))
    return kernels


_LLADA_VOCAB = 126464
_UNALIGNED = tuple(_PLAIN_NUMBERS)
_TYPES = {
    "stride": "i32",
    "stats": "*fp32",
    **dict.fromkeys((*_FORBID, "n_more"), "i32"),
    "more": "*i64",
    "row_ids": "*i64",
    "key": "i64",
    "inv_t": "fp32",
    "vocab": "i32",
    "ids": "*i64",
    "confidence": "*fp32",
    "entropy": "*fp32",
    "fallback": "i32",
}
