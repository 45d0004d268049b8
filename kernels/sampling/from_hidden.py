"""Token sampling from hidden states and lm_head: the two-level draw of `api`, a bounded number of logits at a time.

On a CPU one pass over the vocabulary keeps, of every row and every TILE tokens, the largest logit and the sums of
exponentials. The draw then takes a row's tile by its mass, computes the tile's TILE logits again, and takes a token by
its share. The mass comes from the first product alone and the share from the second alone. Rounding between the two
therefore moves a probability or a confidence by no more than the rounding itself: 2·H·(V + TILE) FLOPs a row.

On a GPU a row chunk takes torch's product and then the kernels of `triton_kernels`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import launch, reference
from ..arithmetic import accumulation_dtype
from ..checks import check_draw, check_linear
from ..head import Head, byte_limit, op_context
from ..random_numbers import uniform
from .plain import barred, buffers, choose_tile, choose_token, entropy_of, tile_sums

TILE = 128  # tokens of a tile, which has one sum, and whose logits are computed twice
LOGITS_BYTES = {"cpu": 2 << 20, "cuda": 256 << 20}  # default limits of the logits at a time, by device
MOST_ROWS = 256  # of a row chunk on a CPU
FEWEST_ROWS = 16  # of a product on a CPU: BLAS rounds products of fewer rows otherwise, and draws would change
WEIGHT_BYTES = 16 << 20  # of the head read for one product on a CPU


def linear_sample_tokens(
    hidden: Tensor,
    weight: Tensor,
    temperature: float,
    *,
    seed: int,
    row_ids: Tensor | None = None,
    forbid: Sequence[int] = (),
    bias: Tensor | None = None,
    max_logits_bytes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`sample_tokens(hidden @ weight.T + bias, temperature)` without the logits; not differentiable.

    hidden [M, H] and weight [V, H] of one dtype (float32, bfloat16, float16, float64), bias [V] floating, row_ids int64
    [M], default 0..M-1; forbid: token ids never drawn -> ids int64 [M], confidence float32 [M] in [0, 1].

    The same (seed, row id) draws the same token as `sample_tokens` does, up to the rounding of logits. See there for
    temperature, forbidden tokens, infinities, NaN and the meaning of confidence. At most `max_logits_bytes` of logits
    exist at a time (default: 2 MiB on a CPU, 256 MiB on a GPU), at least 16 rows of 128 logits on a CPU and one row on
    a GPU. On a CPU they are float32 whatever the inputs (float64 for float64); on a GPU they have the dtype of the
    inputs, as in a linear layer, and float64 takes the path of the CPU.

    A row that has +inf, or for which `sample_tokens` would return confidence NaN, is drawn again by the definition,
    from the whole row of logits.

    Under autocast hidden, weight and bias are cast to its dtype, as for a linear layer. Raises TypeError for wrong
    types (of an lm_head module pass the weight; merge LoRA into it first), ValueError for wrong shapes, dtypes, devices
    or values, before any work.
    """
    return _sample_op(*_checked(hidden, weight, temperature, seed, row_ids, forbid, bias, max_logits_bytes))


def linear_sample_tokens_with_entropy(
    hidden: Tensor,
    weight: Tensor,
    temperature: float,
    *,
    seed: int,
    row_ids: Tensor | None = None,
    forbid: Sequence[int] = (),
    bias: Tensor | None = None,
    max_logits_bytes: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`linear_sample_tokens`, and the entropy of each row from the same products.

    Arguments and errors as of `linear_sample_tokens` -> ids int64 [M], confidence float32 [M], entropy float32 [M] in
    nats, as of `sample_tokens_with_entropy`.
    """
    return _sample_with_entropy_op(
        *_checked(hidden, weight, temperature, seed, row_ids, forbid, bias, max_logits_bytes)
    )


def _checked(
    hidden: Tensor,
    weight: Tensor,
    temperature: float,
    seed: int,
    row_ids: Tensor | None,
    forbid: Sequence[int],
    bias: Tensor | None,
    max_logits_bytes: int | None,
) -> tuple[Tensor, Tensor, Tensor | None, float, int, Tensor | None, list[int], int | None]:
    """The arguments of the operators."""
    hidden, weight, bias = check_linear(hidden, weight, bias, max_logits_bytes, dims="MH")
    forbid, seed = check_draw(hidden, weight.shape[0], temperature, seed, row_ids, forbid)
    bias = None if bias is None else bias.detach()
    return hidden.detach(), weight.detach(), bias, float(temperature), seed, row_ids, forbid, max_logits_bytes


@torch.library.custom_op("dmpo::linear_sample_tokens", mutates_args=())
def _sample_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    temperature: float,
    seed: int,
    row_ids: Tensor | None,
    forbid: list[int],
    max_logits_bytes: int | None,
) -> tuple[Tensor, Tensor]:
    return _sample(hidden, weight, bias, temperature, seed, row_ids, forbid, max_logits_bytes, None)


def _sample(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    temperature: float,
    seed: int,
    row_ids: Tensor | None,
    forbid: list[int],
    max_logits_bytes: int | None,
    entropy: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """ids [M] and confidence [M]; `entropy`, float32 [M], gets the entropies."""
    rows = len(hidden)
    row_ids = torch.arange(rows, device=hidden.device) if row_ids is None else row_ids.contiguous()
    ids = torch.empty(rows, dtype=torch.int64, device=hidden.device)
    confidence = torch.empty(rows, dtype=torch.float32, device=hidden.device)
    limit = byte_limit(max_logits_bytes, LOGITS_BYTES, hidden.device)
    path = RowChunks if launch.uses_triton(hidden) else TilePass
    draw = path(hidden, weight, bias, limit, temperature, entropy is not None)
    with op_context(hidden):
        for start in range(0, rows, draw.rows):
            chunk = slice(start, start + draw.rows)
            out = None if entropy is None else entropy[chunk]
            ids[chunk], confidence[chunk] = draw(hidden[chunk], temperature, seed, row_ids[chunk], forbid, out)
        if isinstance(draw, TilePass):
            for i in confidence.isnan().nonzero().flatten().tolist():
                row, logits = slice(i, i + 1), draw.whole_row(hidden[i])
                ids[row], confidence[row] = reference.sample_tokens(
                    logits, temperature, seed=seed, row_ids=row_ids[row], forbid=forbid
                )
                if entropy is not None:
                    entropy[row] = reference.row_entropy(logits, forbid)
    return ids, confidence


@_sample_op.register_fake
def _(hidden: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    rows = hidden.shape[0]
    return hidden.new_empty(rows, dtype=torch.int64), hidden.new_empty(rows, dtype=torch.float32)


@torch.library.custom_op("dmpo::linear_sample_tokens_with_entropy", mutates_args=())
def _sample_with_entropy_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    temperature: float,
    seed: int,
    row_ids: Tensor | None,
    forbid: list[int],
    max_logits_bytes: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    entropy = hidden.new_empty(len(hidden), dtype=torch.float32)
    drawn = _sample(hidden, weight, bias, temperature, seed, row_ids, forbid, max_logits_bytes, entropy)
    return *drawn, entropy


@_sample_with_entropy_op.register_fake
def _(hidden: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    rows = hidden.shape[0]
    confidence, entropy = (hidden.new_empty(rows, dtype=torch.float32) for _ in range(2))
    return hidden.new_empty(rows, dtype=torch.int64), confidence, entropy


class RowChunks:
    """Draws with the kernels of `triton_kernels`, from as many whole rows of logits as the limit allows."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, limit: int, temperature: float, entropy: bool = False
    ) -> None:
        self.weight, self.bias = weight, None if bias is None else bias.to(weight.dtype)
        self.rows = max(1, limit // (len(weight) * weight.itemsize))

    def __call__(
        self,
        hidden: Tensor,
        temperature: float,
        seed: int,
        row_ids: Tensor,
        forbid: list[int],
        entropy: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        from . import triton_kernels

        logits = torch.nn.functional.linear(hidden, self.weight, self.bias)
        return triton_kernels.sample(logits, temperature, seed, row_ids, forbid, "cdf", entropy)


class TilePass:
    """Draws by a pass over the vocabulary for each row chunk, some tiles of TILE tokens at a time, in memory that all
    passes share."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, limit: int, temperature: float, entropy: bool = False
    ) -> None:
        dtype, number = accumulation_dtype(hidden.dtype), buffers(temperature, entropy)
        self.head, self.tiles, self.limit = Head(weight, bias, dtype), -(-len(weight) // TILE), limit
        runs = limit // (number * dtype.itemsize * TILE)  # of TILE logits that the limit allows
        chunks = -(-len(hidden) // max(FEWEST_ROWS, min(MOST_ROWS, runs)))
        self.rows = max(1, -(-len(hidden) // max(1, chunks)))
        self.height = max(FEWEST_ROWS, self.rows)
        width = min(runs // self.height, WEIGHT_BYTES // (dtype.itemsize * hidden.shape[1] * TILE))
        self.columns = TILE * min(max(1, width), self.tiles)
        elements = self.height * self.columns
        self.buffers = [weight.new_empty(elements, dtype=dtype) for _ in range(number)]
        self.sums = 2 + (temperature not in (0, 1)) + entropy  # of a tile

    def __call__(
        self,
        hidden: Tensor,
        temperature: float,
        seed: int,
        row_ids: Tensor,
        forbid: list[int],
        entropy: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw for one row chunk [m, H]; confidence NaN marks rows that need the definition."""
        m = len(hidden)
        padded = hidden.new_zeros(max(FEWEST_ROWS, m), hidden.shape[1], dtype=self.head.compute)
        padded[:m] = hidden
        sums = self._sums(padded, m, temperature, sorted(forbid), entropy=entropy is not None)
        if entropy is not None:
            entropy.copy_(entropy_of(sums))
        tile, rest, mass = choose_tile(sums, temperature, uniform(seed, row_ids).unsqueeze(-1))
        token, share = choose_token(self._logits(padded[:m], tile, forbid), temperature, rest)
        return (tile * TILE + token).squeeze(-1), (mass * share).squeeze(-1).float()

    def whole_row(self, hidden: Tensor) -> Tensor:
        """Every logit of one row [H]; [1, V]."""
        row = hidden.to(self.head.compute).unsqueeze(0)
        logits = row.new_empty(1, len(self.head.weight))
        for out, first in zip(logits.split(self.columns, 1), range(0, logits.shape[1], self.columns), strict=True):
            self.head.logits(row, first, out)
        return logits

    def _sums(
        self, hidden: Tensor, m: int, temperature: float, forbid: list[int], *, entropy: bool
    ) -> tuple[Tensor, ...]:
        """`tile_sums` of the first m rows over the whole vocabulary; tensors [m, tiles]."""
        whole_rows = [hidden.new_empty(m, self.tiles) for _ in range(self.sums)]
        vocab, height = len(self.head.weight), len(hidden)
        for first in range(0, vocab, self.columns):
            width = min(self.columns, vocab - first)
            tiles = -(-width // TILE)
            elements = height * tiles * TILE
            x, spare = (buffer[:elements].view(height, -1) for buffer in (self.buffers[0], self.buffers[-1]))
            self.head.logits(hidden, first, x[:, :width])
            x[:, width:] = float("-inf")
            for token in forbid:
                if first <= token < first + width:
                    x[:, token - first] = float("-inf")
            shape = m, tiles, TILE
            of_tiles = tile_sums(x[:m].view(shape), temperature, spare[:m].view(shape), entropy=entropy)
            at = first // TILE
            for whole, sums in zip(whole_rows, of_tiles, strict=True):
                whole[:, at : at + tiles] = sums
        return tuple(whole_rows)

    def _logits(self, hidden: Tensor, tile: Tensor, forbid: list[int]) -> Tensor:
        """Logits of each row's own tile, -inf for forbidden tokens and beyond the vocabulary; [m, TILE]."""
        weight, bias, dtype = self.head.weight, self.head.bias, self.head.compute
        at = tile * TILE + torch.arange(TILE, device=tile.device)
        outside = barred(at, len(weight), forbid)
        at.clamp_(max=len(weight) - 1)
        x = hidden.new_empty(at.shape)
        step = max(1, self.limit // (TILE * hidden.shape[1] * dtype.itemsize))  # rows; their tiles are copied together
        for h, tokens, out in zip(hidden.split(step), at.split(step), x.split(step), strict=True):
            copied = weight.index_select(0, tokens.flatten()).view(*tokens.shape, -1).to(dtype)  # [step, TILE, H]
            torch.sum(copied.mul_(h.unsqueeze(1)), -1, out=out)  # row by row: BLAS rounds a single row otherwise
        if bias is not None:
            x += bias[at].to(dtype)
        return x.masked_fill_(outside, float("-inf"))
