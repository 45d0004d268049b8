"""The two-level token draw in PyTorch: sums of vocabulary tiles, a tile by its mass, a token inside it.

`tile_sums`, `choose_tile` and `choose_token` are the three steps; `sample` takes them over logits, `from_hidden`
over hidden states and a head. A tile's sums are those of exp(l - top of the tile): nothing in them depends on other
tiles or rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..arithmetic import accumulation_dtype
from ..random_numbers import uniform

TILE = 2048  # tokens, upper bound
CHUNK = 1 << 20  # logits handled at a time: 4 MB a buffer
SMALLEST = -80.0  # exponents below are raised to it: e^-80 adds nothing to 1, and exp of less is up to 200x slower


def sample(
    logits: Tensor, temperature: float, seed: int, row_ids: Tensor | None, forbid: list[int], mode: str
) -> tuple[Tensor, Tensor]:
    """`api.sample_tokens`, arguments already validated, a bounded number of rows at a time."""
    rows, vocab = logits.shape
    if row_ids is None:
        row_ids = torch.arange(rows, device=logits.device)
    ids = torch.empty(rows, dtype=torch.int64, device=logits.device)
    confidence = torch.empty(rows, dtype=torch.float32, device=logits.device)
    slow = mode == "gumbel" and temperature != 0
    scratch: list[Tensor] = []
    step = max(1, (CHUNK >> 3) // vocab) if slow else max(torch.get_num_threads(), CHUNK // vocab)
    for start in range(0, rows, step):
        chunk = slice(start, start + step)
        if slow:
            odd = torch.arange(len(ids[chunk]), device=ids.device)
        else:
            ids[chunk], confidence[chunk] = _draw(logits[chunk], temperature, seed, row_ids[chunk], forbid, scratch)
            odd = confidence[chunk].isnan().nonzero().flatten()
        if len(odd):
            ids[chunk][odd], confidence[chunk][odd] = reference.sample_tokens(
                logits[chunk][odd], temperature, seed=seed, row_ids=row_ids[chunk][odd], forbid=forbid, mode=mode
            )
    return ids, confidence


def _draw(
    logits: Tensor, temperature: float, seed: int, row_ids: Tensor, forbid: list[int], scratch: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """One chunk [m, V]; confidence NaN marks rows that need the full definition. Buffers in `scratch` are reused."""
    m, vocab = logits.shape
    tiles = -(-vocab // TILE)
    width = -(-vocab // tiles)
    if not scratch:
        dtype = accumulation_dtype(logits.dtype)
        scratch += [logits.new_empty(m, tiles * width, dtype=dtype) for _ in range(buffers(temperature))]
    work = scratch[0][:m]
    work[:, :vocab] = logits
    work[:, vocab:] = float("-inf")
    work[:, forbid] = float("-inf")
    sums = tile_sums(work.view(m, tiles, width), temperature, scratch[-1][:m].view(m, tiles, width))
    tile, rest, mass = choose_tile(sums, temperature, uniform(seed, row_ids).unsqueeze(-1))
    at = tile * width + torch.arange(width, device=tile.device)  # [m, width]
    x = logits.gather(-1, at.clamp(max=vocab - 1)).to(work.dtype)
    token, share = choose_token(x.masked_fill_(barred(at, vocab, forbid), float("-inf")), temperature, rest)
    ids = (tile * width + token).squeeze(-1)
    return ids.clamp(max=vocab - 1), (mass * share).squeeze(-1).float()


def barred(at: Tensor, vocab: int, forbid: list[int]) -> Tensor:
    """Where `at` holds no token that may be drawn."""
    outside = at >= vocab
    for token in forbid:
        outside |= at == token
    return outside


def buffers(temperature: float) -> int:
    """How many buffers of logits `tile_sums` works on."""
    return 1 if temperature in (0, 1) else 2


def tile_sums(x: Tensor, temperature: float, spare: Tensor) -> tuple[Tensor, ...]:
    """Of every tile: its largest logit, Σ exp(l - top) and, where T is neither 0 nor 1, Σ exp((l - top) / T).

    x float32 or float64 [m, n, k], destroyed; spare, alike, used where T is neither 0 nor 1 -> two or three [m, n]. A
    tile that holds NaN or +inf has a top that says so; one of nothing but -inf has a top of -inf, and sums that
    count for nothing.
    """
    tops = x.amax(-1)
    x.sub_(tops.clamp(min=torch.finfo(x.dtype).min).unsqueeze(-1))
    tempered = () if buffers(temperature) == 1 else (_powers(torch.mul(x, 1 / temperature, out=spare)).sum(-1),)
    return (tops, _powers(x).sum(-1), *tempered)


def _powers(x: Tensor) -> Tensor:
    return x.clamp_(min=SMALLEST).exp_()


def choose_tile(sums: tuple[Tensor, ...], temperature: float, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take a tile by its mass. sums as of `tile_sums`, u float64 [m, 1] -> tile, what is left of u inside it, and the
    tile's untempered probability: [m, 1] each. The probability is NaN for a row with a NaN or +inf, and for nothing
    but -inf."""
    tops = sums[0].double()
    gaps = tops - tops.amax(-1, keepdim=True)
    mass = _scaled(sums[1], gaps)
    if temperature == 0:
        tile, rest = tops.argmax(-1, keepdim=True), u
    else:
        tile, rest = pick(mass if temperature == 1 else _scaled(sums[2], gaps / temperature), u)
    return tile, rest, mass.gather(-1, tile) / mass.sum(-1, keepdim=True)


def choose_token(x: Tensor, temperature: float, u: Tensor) -> tuple[Tensor, Tensor]:
    """Take a token of a row's tile. x [m, k], u [m, 1] -> token, its untempered share of the tile: [m, 1] each."""
    x = x.double()
    gaps = x - x.amax(-1, keepdim=True)
    weights = _scaled(1.0, gaps)
    if temperature == 0:
        token = gaps.argmax(-1, keepdim=True)
    else:
        token, _ = pick(weights if temperature == 1 else _scaled(1.0, gaps / temperature), u)
    return token, weights.gather(-1, token) / weights.sum(-1, keepdim=True)


def _scaled(sums: Tensor | float, gaps: Tensor) -> Tensor:
    """sums · exp(gaps) in float64; exactly 0 where the exponential leaves the normal numbers, and for NaN."""
    return gaps.clamp(min=-700.0).exp_().mul_(sums).masked_fill_(~(gaps > -700.0), 0.0)


def pick(weights: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """First index whose cumulative weight exceeds u * total, and what is left of u inside it.

    weights [m, n], u [m, 1] -> [m, 1], [m, 1].
    """
    cum = weights.cumsum(-1)
    goal = u * cum[:, -1:]
    last = torch.where(weights > 0, torch.arange(weights.shape[-1], device=weights.device), 0).amax(-1, keepdim=True)
    index = torch.minimum(torch.searchsorted(cum, goal, right=True), last)  # u * total may round up to the total
    weight = weights.gather(-1, index)
    return index, ((goal - cum.gather(-1, index) + weight) / weight).clamp(0, 1)
