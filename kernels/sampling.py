"""Token sampling with confidence: an exact two-level draw, one uniform a row, keyed by (seed, row id).

A row's tokens are grouped into vocabulary tiles; a tile is taken by its mass, a token inside it by its share. With one
uniform for both levels this is inverse-CDF sampling in index order, whatever the tile, as `reference.sample_tokens`
defines it.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from . import reference
from .checks import check_floating, check_like, check_number
from .launch import ProductionKernel, uses_triton

MODES = ("cdf", "gumbel")
_TILE = 2048  # tokens, upper bound, CPU path
_CHUNK = 1 << 20  # logits handled at a time, CPU path: 4 MB a buffer
_NEGLIGIBLE = -70.0  # (l - max) / T below which a weight is 0: far beyond a 53-bit uniform, and denormals are slow
_SMALLEST_TEMPERATURE = 1e-30  # 1 / T stays finite in float32


def sample_tokens(
    logits: Tensor,
    temperature: float,
    *,
    seed: int,
    row_ids: Tensor | None = None,
    forbid: Sequence[int] = (),
    mode: str = "cdf",
) -> tuple[Tensor, Tensor]:
    """Draw one token a row from softmax(logits / T), with its untempered probability.

    logits [M, V] floating point, any row stride; row_ids int64 [M], default 0..M-1; forbid: token ids never drawn
    -> ids int64 [M], confidence float32 [M] in [0, 1]. Not differentiable.

    temperature: 0 (the first largest logit) or at least 1e-30. The draw depends on (seed, row id) and the row's logits
    alone, so it is the same however rows are batched. A forbidden token is a logit of -inf: confidence is
    softmax(logits)[id] over the tokens that are allowed, in float32 (float64 logits: computed in float64).
    +inf counts as the largest finite number. A row with a NaN among its allowed logits, or with nothing but -inf, gives
    its lowest allowed token and confidence NaN; other rows are not touched by it.

    mode: "cdf", the two-level inverse-CDF draw; or "gumbel", one Gumbel variable per logit (Maddison et al. 2014,
    arXiv:1411.0030), the slow independent check on it, with the same distribution and other draws.

    Raises TypeError for wrong types, ValueError for wrong shapes, dtypes, devices or values, before any work.
    """
    forbid = _validate(logits, temperature, seed, row_ids, forbid, mode)
    if not -(1 << 63) <= seed < 1 << 63:
        seed = (int(seed) + (1 << 63)) % (1 << 64) - (1 << 63)
    return torch.ops.dmpo.sample_tokens(logits.detach(), float(temperature), int(seed), row_ids, forbid, mode)


def _validate(
    logits: Tensor, temperature: float, seed: int, row_ids: Tensor | None, forbid: Sequence[int], mode: str
) -> list[int]:
    check_floating("logits", logits, "MV")
    vocab = logits.shape[1]
    check_number("temperature", temperature)
    if temperature != 0 and temperature < _SMALLEST_TEMPERATURE:
        raise ValueError(f"temperature: got {temperature}, want 0 or at least {_SMALLEST_TEMPERATURE}")
    if isinstance(seed, bool) or not isinstance(seed, (Integral, torch.SymInt)):
        raise TypeError(f"seed: got {type(seed).__name__}, want an integer")
    if row_ids is not None:
        check_like("row_ids", row_ids, logits, (logits.shape[0],), torch.int64)
    if not isinstance(forbid, (Sequence, set, frozenset)) or isinstance(forbid, str):
        raise TypeError(f"forbid: got {type(forbid).__name__}, want a sequence of token ids")
    ids = list(dict.fromkeys(forbid))
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, Integral):
            raise TypeError(f"forbid: got {token!r}, want token ids (integers)")
        if not 0 <= token < vocab:
            raise ValueError(f"forbid: got {token}, want token ids in [0, {vocab})")
    if len(ids) == vocab:
        raise ValueError(f"forbid: got all {vocab} tokens, want at least one left to draw")
    if mode not in MODES:
        raise ValueError(f"mode: got {mode!r}, want one of {', '.join(MODES)}")
    return [int(token) for token in ids]


@torch.library.custom_op("dmpo::sample_tokens", mutates_args=())
def _sample_op(
    logits: Tensor, temperature: float, seed: int, row_ids: Tensor | None, forbid: list[int], mode: str
) -> tuple[Tensor, Tensor]:
    if uses_triton(logits):
        from . import sampling_triton

        if logits.stride(1) != 1 and logits.shape[1] > 1:
            logits = logits.contiguous()
        row_ids = None if row_ids is None else row_ids.contiguous()
        return sampling_triton.sample(logits, temperature, seed, row_ids, forbid, mode)
    return _sample_plain(logits, temperature, seed, row_ids, forbid, mode)


@_sample_op.register_fake
def _(
    logits: Tensor, temperature: float, seed: int, row_ids: Tensor | None, forbid: list[int], mode: str
) -> tuple[Tensor, Tensor]:
    rows = logits.shape[0]
    return logits.new_empty(rows, dtype=torch.int64), logits.new_empty(rows, dtype=torch.float32)


def _sample_plain(
    logits: Tensor, temperature: float, seed: int, row_ids: Tensor | None, forbid: list[int], mode: str
) -> tuple[Tensor, Tensor]:
    """The two-level draw in PyTorch, a bounded number of rows at a time; nothing in it mixes rows."""
    rows, vocab = logits.shape
    if row_ids is None:
        row_ids = torch.arange(rows, device=logits.device)
    ids = torch.empty(rows, dtype=torch.int64, device=logits.device)
    confidence = torch.empty(rows, dtype=torch.float32, device=logits.device)
    slow = mode == "gumbel" and temperature != 0
    scratch: list[Tensor] = []
    step = max(1, (_CHUNK >> 3) // vocab) if slow else max(torch.get_num_threads(), _CHUNK // vocab)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        if slow:
            odd = torch.arange(len(ids[part]), device=ids.device)
        else:
            ids[part], confidence[part] = _draw(logits[part], temperature, seed, row_ids[part], forbid, scratch)
            odd = confidence[part].isnan().nonzero().flatten()  # a NaN, +inf, or nothing but -inf
        if len(odd):
            ids[part][odd], confidence[part][odd] = reference.sample_tokens(
                logits[part][odd], temperature, seed=seed, row_ids=row_ids[part][odd], forbid=forbid, mode=mode
            )
    return ids, confidence


def _draw(
    logits: Tensor, temperature: float, seed: int, row_ids: Tensor, forbid: list[int], scratch: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """One chunk [m, V]; confidence NaN marks rows that need the full definition. Buffers in `scratch` are reused."""
    m, vocab = logits.shape
    tiles = -(-vocab // _TILE)
    width = -(-vocab // tiles)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    if not scratch:
        scratch += [logits.new_full((m, tiles * width), float("-inf"), dtype=dtype)]
        scratch += [torch.empty_like(scratch[0]) for _ in range(1 if temperature in (0, 1) else 2)]
    work, probs, weights = scratch[0][:m], scratch[1][:m], scratch[-1][:m]
    work[:, :vocab] = logits
    if forbid:
        work[:, forbid] = float("-inf")
    torch.softmax(work, -1, out=probs)
    tops = work.view(m, tiles, width).amax(-1)  # [m, tiles]
    if temperature == 0:
        tile = tops.argmax(-1, keepdim=True)
        token = _inside(work, tile, width).argmax(-1, keepdim=True)
    else:
        if temperature != 1:
            work.sub_(tops.amax(-1, keepdim=True)).mul_(1 / temperature)
            torch.threshold_(work, _NEGLIGIBLE, float("-inf"))
            torch.softmax(work, -1, out=weights)
        u = reference.uniform(seed, row_ids).unsqueeze(-1)
        tile, rest = _pick(weights.view(m, tiles, width).sum(-1).double(), u)
        token, _ = _pick(_inside(weights, tile, width).double(), rest)
    ids = tile * width + token  # [m, 1]
    return ids.squeeze(-1).clamp(max=vocab - 1), probs.gather(-1, ids).squeeze(-1)


def _inside(x: Tensor, tile: Tensor, width: int) -> Tensor:
    """Each row's chosen tile; [m, tiles * width], [m, 1] -> [m, width]."""
    return x.view(len(x), -1, width)[torch.arange(len(x), device=x.device), tile.squeeze(-1)]


def _pick(weights: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """First index whose cumulative weight exceeds u * total, and what is left of u inside it.

    weights [m, n], u [m, 1] -> [m, 1], [m, 1].
    """
    cum = weights.cumsum(-1)
    goal = u * cum[:, -1:]
    last = torch.where(weights > 0, torch.arange(weights.shape[-1], device=weights.device), 0).amax(-1, keepdim=True)
    index = torch.minimum(torch.searchsorted(cum, goal, right=True), last)  # u * total may round up to the total
    weight = weights.gather(-1, index)
    return index, ((goal - cum.gather(-1, index) + weight) / weight).clamp(0, 1)


def production(arch: int) -> list[ProductionKernel]:
    """The sampler's Triton kernels as launched on sm_`arch`."""
    from . import sampling_triton

    return sampling_triton.production(arch)
