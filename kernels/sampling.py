"""Token sampling with confidence: one draw a row, keyed by (seed, row id)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from . import reference


def sample_tokens(
    logits: Tensor,
    temperature: float,
    *,
    seed: int,
    row_ids: Tensor | None = None,
    forbid: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """Draw one token a row from softmax(logits / T), with its untempered probability.

    logits [M, V], row_ids int64 [M] (default 0..M-1), forbid: ids never drawn -> int64 [M], float32 [M].
    """
    return reference.sample_tokens(logits, temperature, seed=seed, row_ids=row_ids, forbid=forbid)
