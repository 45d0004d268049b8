"""Block-causal attention: a token attends to its block of tokens and to all earlier blocks (SDAR, arXiv 2510.06303).

Blocks are counted from a row's first token, so prompt and completion may share one.

Such a model predicts a block with masks from the earlier blocks without masks. One pass does so for all blocks of a
view at once (BD3-LM, Arriola et al. 2025, arXiv 2503.09573): the clean tokens and, after them, the tokens with masks
are one sequence, in which a block with masks attends to itself and to the clean blocks before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def block_causal_mask(attended: Tensor, size: int) -> Tensor:
    """Which keys each query attends to: bool [N, T], False on left padding, -> bool [N, 1, T, T].

    Padding attends to itself alone, so that no query is without a key.
    """
    blocks = _blocks(attended, size)
    allowed = (blocks.unsqueeze(2) >= blocks.unsqueeze(1)) & attended.unsqueeze(1)
    return _with_itself(allowed)


def cached_block_mask(attended: Tensor, positions: Tensor, size: int) -> Tensor:
    """The rows of `block_causal_mask` of some queries: bool [N, T] and int64 [N, q] -> bool [N, 1, q, T]."""
    blocks = _blocks(attended, size)
    allowed = (blocks.gather(1, positions).unsqueeze(2) >= blocks.unsqueeze(1)) & attended.unsqueeze(1)
    itself = positions.unsqueeze(2) == torch.arange(attended.shape[1], device=positions.device)
    return (allowed | itself).unsqueeze(1)


@dataclass(frozen=True)
class TwoCopies:
    """The inputs of a pass that scores all blocks of views at once; S = T + the columns that are repeated.

    input_ids: int64 [N, S]. mask: bool [N, 1, S, S]. position_ids: int64 [N, S]. positions: int64 [L], where the
    predictions of the last L tokens are.
    """

    input_ids: Tensor
    mask: Tensor
    position_ids: Tensor
    positions: Tensor


def two_copies(clean: Tensor, view: Tensor, attended: Tensor, prompt: int, size: int) -> TwoCopies:
    """Clean tokens and a view of them, in one sequence.

    Of the view only the columns from the first block of any completion on are there.

    Args:
        clean: int64 [N, T], prompt and completion.
        view: int64 [N, T], the same with masks.
        attended: bool [N, T], False on left padding.
        prompt: columns before the completions, T - L.
        size: tokens of a block.
    """
    first, length = max(0, prompt - (size - 1)), clean.shape[1]
    places = (attended.long().cumsum(1) - 1).clamp(min=0)
    blocks = _blocks(attended, size)
    of_query, of_key = torch.cat([blocks, blocks[:, first:]], 1).unsqueeze(2), blocks.unsqueeze(1)
    to_clean = of_query > of_key
    to_clean[:, :length] |= of_query[:, :length] == of_key
    to_view = of_query == of_key[:, :, first:]
    to_view[:, :length] = False
    keys = torch.cat([attended, attended[:, first:]], 1)
    allowed = torch.cat([to_clean, to_view], 2) & keys.unsqueeze(1)
    return TwoCopies(
        input_ids=torch.cat([clean, view[:, first:]], 1),
        mask=_with_itself(allowed),
        position_ids=torch.cat([places, places[:, first:]], 1),
        positions=torch.arange(prompt, length, device=clean.device) + length - first,
    )


def _blocks(attended: Tensor, size: int) -> Tensor:
    """The block of each column, counted from the row's first token; bool [N, T] -> int64 [N, T]."""
    return (attended.long().cumsum(1) - 1).div(size, rounding_mode="floor")


def _with_itself(allowed: Tensor) -> Tensor:
    return (allowed | torch.eye(allowed.shape[1], dtype=torch.bool, device=allowed.device)).unsqueeze(1)
