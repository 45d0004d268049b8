"""The two-level token draw in PyTorch: sums of vocabulary tiles, a tile by its mass, a token inside it.

`tile_sums`, `choose_tile` and `choose_token` are the three steps. `sample` takes them on logits, `from_hidden` on
hidden states and a head. A tile's sums add up exp(l - top of the tile), so they do not depend on other tiles or rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..arithmetic import accumulation_dtype
from ..random_numbers import uniform

TILE = 2048  # tokens, upper bound
CHUNK = 1 << 20  # logits of a row chunk: 4 MB a buffer
SMALLEST = -80.0  # lower exponents are raised to it: e^-80 adds nothing to 1, and a lower exp is up to 200x slower


def sample(
    logits: Tensor,
    temperature: float,
    seed: int,
    row_ids: Tensor | None,
    forbid: list[int],
    mode: str,
    entropy: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`api.sample_tokens` of validated arguments, one row chunk at a time.

    entropy: float32 [M], gets the entropy of each row (not in mode "gumbel").
    """
    rows, vocab = logits.shape
    if row_ids is None:
        row_ids = torch.arange(rows, device=logits.device)
    ids = torch.empty(rows, dtype=torch.int64, device=logits.device)
    confidence = torch.empty(rows, dtype=torch.float32, device=logits.device)
    by_definition = mode == "gumbel" and temperature != 0  # all rows by the definition, else only those with NaN
    scratch: list[Tensor] = []
    step = max(1, (CHUNK >> 3) // vocab) if by_definition else max(torch.get_num_threads(), CHUNK // vocab)
    for start in range(0, rows, step):
        chunk = slice(start, start + step)
        if by_definition:
            odd = torch.arange(len(ids[chunk]), device=ids.device)
        else:
            out = None if entropy is None else entropy[chunk]
            drawn = _draw(logits[chunk], temperature, seed, row_ids[chunk], forbid, scratch, out)
            ids[chunk], confidence[chunk] = drawn
            odd = confidence[chunk].isnan().nonzero().flatten()
        if len(odd):
            ids[chunk][odd], confidence[chunk][odd] = reference.sample_tokens(
                logits[chunk][odd], temperature, seed=seed, row_ids=row_ids[chunk][odd], forbid=forbid, mode=mode
            )
            if entropy is not None:
                entropy[chunk][odd] = reference.row_entropy(logits[chunk][odd], forbid)
    return ids, confidence


def _draw(
    logits: Tensor,
    temperature: float,
    seed: int,
    row_ids: Tensor,
    forbid: list[int],
    scratch: list[Tensor],
    entropy: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Draw for one row chunk [m, V]; confidence NaN marks rows that need the definition. `scratch` keeps buffers."""
    m, vocab = logits.shape
    tiles = -(-vocab // TILE)
    width = -(-vocab // tiles)
    if not scratch:
        dtype = accumulation_dtype(logits.dtype)
        number = buffers(temperature, entropy is not None)
        scratch += [logits.new_empty(m, tiles * width, dtype=dtype) for _ in range(number)]
    work = scratch[0][:m]
    work[:, :vocab] = logits
    work[:, vocab:] = float("-inf")
    work[:, forbid] = float("-inf")
    spare = scratch[-1][:m].view(m, tiles, width)
    sums = tile_sums(work.view(m, tiles, width), temperature, spare, entropy=entropy is not None)
    if entropy is not None:
        entropy.copy_(entropy_of(sums))
    tile, rest, mass = choose_tile(sums, temperature, uniform(seed, row_ids).unsqueeze(-1))
    at = tile * width + torch.arange(width, device=tile.device)  # [m, width]
    x = logits.gather(-1, at.clamp(max=vocab - 1)).to(work.dtype)
    token, share = choose_token(x.masked_fill_(barred(at, vocab, forbid), float("-inf")), temperature, rest)
    ids = (tile * width + token).squeeze(-1)
    return ids.clamp(max=vocab - 1), (mass * share).squeeze(-1).float()


def barred(at: Tensor, vocab: int, forbid: list[int]) -> Tensor:
    """True where `at` is beyond the vocabulary or a forbidden token."""
    outside = at >= vocab
    for token in forbid:
        outside |= at == token
    return outside


def buffers(temperature: float, entropy: bool) -> int:
    """How many buffers of logits `tile_sums` needs."""
    return 1 if temperature in (0, 1) and not entropy else 2


def tile_sums(x: Tensor, temperature: float, spare: Tensor, *, entropy: bool) -> tuple[Tensor, ...]:
    """The largest logit of every tile, Σ exp(l - top), if T is neither 0 nor 1 Σ exp((l - top) / T), and with `entropy`
    Σ (l - top) exp(l - top).

    x float32 or float64 [m, n, k], overwritten; spare, of the same shape, overwritten if T is neither 0 nor 1 and with
    `entropy` -> two to four tensors [m, n]. The top of a tile with NaN or +inf is NaN or +inf. The top of a tile with
    -inf alone is -inf, and its sums are not used.
    """
    tops = x.amax(-1)
    x.sub_(tops.clamp(min=torch.finfo(x.dtype).min).unsqueeze(-1))
    tempered = () if temperature in (0, 1) else (_powers(torch.mul(x, 1 / temperature, out=spare)).sum(-1),)
    if not entropy:
        return (tops, _powers(x).sum(-1), *tempered)
    powers = torch.exp(x.clamp_(min=SMALLEST), out=spare)
    return (tops, powers.sum(-1), *tempered, x.mul_(powers).sum(-1))


def entropy_of(sums: tuple[Tensor, ...]) -> Tensor:
    """The entropy in nats of each row's untempered distribution, float64 [m]; sums as of `tile_sums` with `entropy`.

    With the gap d of a tile's top to the row's, S = Σ e^d·Σ exp(l - top) and W = Σ e^d·(Σ (l - top)·exp(l - top)
    + d·Σ exp(l - top)): H = log S - W / S, whose two terms are not negative. NaN where `choose_tile` gives NaN.
    """
    tops = sums[0].double()
    gaps = tops - tops.amax(-1, keepdim=True)
    mass = _scaled(sums[1], gaps)
    total = mass.sum(-1)
    moment = _scaled(sums[-1], gaps) + (gaps * mass).masked_fill_(mass == 0, 0.0)
    return total.log() - moment.sum(-1) / total


def _powers(x: Tensor) -> Tensor:
    return x.clamp_(min=SMALLEST).exp_()


def choose_tile(sums: tuple[Tensor, ...], temperature: float, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take a tile by its mass. sums from `tile_sums`, u float64 [m, 1] -> tile, the remainder of u inside the tile, and
    the tile's untempered probability: [m, 1] each. The probability is NaN for a row with NaN or +inf, or with -inf
    alone."""
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
    """sums · exp(gaps) in float64; exactly 0 where the exponential is no normal number, and where gaps is NaN."""
    return gaps.clamp(min=-700.0).exp_().mul_(sums).masked_fill_(~(gaps > -700.0), 0.0)


def pick(weights: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """First index whose cumulative weight exceeds u * total, and the remainder of u inside its weight.

    weights [m, n], u [m, 1] -> [m, 1], [m, 1].
    """
    cum = weights.cumsum(-1)
    goal = u * cum[:, -1:]
    last = torch.where(weights > 0, torch.arange(weights.shape[-1], device=weights.device), 0).amax(-1, keepdim=True)
    index = torch.minimum(torch.searchsorted(cum, goal, right=True), last)  # u * total may round up to the total
    weight = weights.gather(-1, index)
    return index, ((goal - cum.gather(-1, index) + weight) / weight).clamp(0, 1)
