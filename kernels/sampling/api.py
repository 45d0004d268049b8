"""Token sampling with confidence: an exact two-level draw, one uniform a row, keyed by (seed, row id).

A row's tokens form vocabulary tiles. The draw takes a tile by its mass, then a token of the tile by its share. With one
uniform for both levels this is inverse-CDF sampling in index order, whatever the tile, as `reference.sample_tokens`
defines it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import check_draw, check_floating
from ..launch import uses_triton
from . import plain

MODES = ("cdf", "gumbel")


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
    alone, so it is the same however rows are batched. The logit of a forbidden token is -inf: confidence is
    softmax(logits)[id] over the allowed tokens, in float32 (float64 logits: computed in float64). +inf counts as the
    largest finite number. A row with a NaN among its allowed logits, or with -inf alone, gives its lowest allowed token
    and confidence NaN; the other rows stay the same.

    mode: "cdf", the two-level inverse-CDF draw; or "gumbel", one Gumbel variable per logit (Maddison et al. 2014,
    arXiv:1411.0030). The latter is slow. It checks the former: the same distribution from other random numbers.

    Raises TypeError for wrong types, ValueError for wrong shapes, dtypes, devices or values, before any work.
    """
    check_floating("logits", logits, "MV")
    if mode not in MODES:
        raise ValueError(f"mode: got {mode!r}, want one of {', '.join(MODES)}")
    forbid, seed = check_draw(logits, logits.shape[1], temperature, seed, row_ids, forbid)
    return torch.ops.dmpo.sample_tokens(logits.detach(), float(temperature), seed, row_ids, forbid, mode)


def sample_tokens_with_entropy(
    logits: Tensor, temperature: float, *, seed: int, row_ids: Tensor | None = None, forbid: Sequence[int] = ()
) -> tuple[Tensor, Tensor, Tensor]:
    """`sample_tokens`, and the entropy of each row from the same pass over the logits.

    Arguments and errors as of `sample_tokens` -> ids int64 [M], confidence float32 [M], entropy float32 [M] in nats: of
    softmax(logits) over the allowed tokens, whatever the temperature; NaN where the confidence is.
    """
    check_floating("logits", logits, "MV")
    forbid, seed = check_draw(logits, logits.shape[1], temperature, seed, row_ids, forbid)
    return torch.ops.dmpo.sample_tokens_with_entropy(logits.detach(), float(temperature), seed, row_ids, forbid)


@torch.library.custom_op("dmpo::sample_tokens", mutates_args=())
def _sample_op(
    logits: Tensor, temperature: float, seed: int, row_ids: Tensor | None, forbid: list[int], mode: str
) -> tuple[Tensor, Tensor]:
    return _sample(logits, temperature, seed, row_ids, forbid, mode, None)


def _sample(
    logits: Tensor,
    temperature: float,
    seed: int,
    row_ids: Tensor | None,
    forbid: list[int],
    mode: str,
    entropy: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """ids [M] and confidence [M]; `entropy`, float32 [M], gets the entropies."""
    if uses_triton(logits):
        from . import triton_kernels

        if logits.stride(1) != 1 and logits.shape[1] > 1:
            logits = logits.contiguous()
        row_ids = None if row_ids is None else row_ids.contiguous()
        return triton_kernels.sample(logits, temperature, seed, row_ids, forbid, mode, entropy)
    return plain.sample(logits, temperature, seed, row_ids, forbid, mode, entropy)


@_sample_op.register_fake
def _(
    logits: Tensor, temperature: float, seed: int, row_ids: Tensor | None, forbid: list[int], mode: str
) -> tuple[Tensor, Tensor]:
    rows = logits.shape[0]
    return logits.new_empty(rows, dtype=torch.int64), logits.new_empty(rows, dtype=torch.float32)


@torch.library.custom_op("dmpo::sample_tokens_with_entropy", mutates_args=())
def _sample_with_entropy_op(
    logits: Tensor, temperature: float, seed: int, row_ids: Tensor | None, forbid: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    entropy = logits.new_empty(len(logits), dtype=torch.float32)
    return *_sample(logits, temperature, seed, row_ids, forbid, "cdf", entropy), entropy


@_sample_with_entropy_op.register_fake
def _(
    logits: Tensor, temperature: float, seed: int, row_ids: Tensor | None, forbid: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    rows = logits.shape[0]
    confidence, entropy = (logits.new_empty(rows, dtype=torch.float32) for _ in range(2))
    return logits.new_empty(rows, dtype=torch.int64), confidence, entropy
