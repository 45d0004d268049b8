"""The rows that pass through the model together: of like length, so that few of their columns are padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chunk:
    """The rows of one pass.

    index: int64 [n], the rows. blank: the columns of their prompts before the first token of any of them. padded:
    whether a column after these is padding in one of the rows.
    """

    index: Tensor
    blank: int
    padded: bool


@dataclass(frozen=True)
class PassLimits:
    """What passes at once: `rows` rows, or more of them while they have at most so many `tokens` and `head_rows`.

    tokens: rows · columns of the pass, prompt and completion. head_rows: positions that the head reads.
    """

    rows: int
    tokens: int
    head_rows: int

    @classmethod
    def of_rows(cls, rows: int, prompt: int, completion: int, mask_rate: float = 1.0) -> PassLimits:
        """So many rows of the greatest length, masked at this rate: as `dmpo plan` counts them."""
        return cls(rows, rows * (prompt + completion), max(1, round(rows * completion * mask_rate)))


def view_order(completions: int, replicates: int) -> list[int]:
    """Rows replicate · B + completion with the views of one completion side by side."""
    return [view * completions + row for row in range(completions) for view in range(replicates)]


def chunks(
    prompt_mask: Tensor, head_rows: Tensor, completion: int, limits: PassLimits, order: Sequence[int] | None = None
) -> list[Chunk]:
    """Chunks of N rows, the longest prompts first; rows of like length stay in their order.

    On a GPU this waits for the device, once. The result has at least one chunk, though without rows it is empty.

    Args:
        prompt_mask: bool [N, P], False on padding.
        head_rows: int [N], positions of each row that the head reads.
        completion: columns after the prompt, L.
        order: of the rows; None keeps theirs.
    """
    device, width = prompt_mask.device, prompt_mask.shape[1]
    if not len(prompt_mask):
        return [Chunk(torch.arange(0, device=device), 0, False)]
    first = prompt_mask.int().argmax(-1) if width else prompt_mask.sum(-1)
    blank, tokens, read = torch.stack([first, prompt_mask.sum(-1), head_rows]).tolist()
    rows = sorted(range(len(blank)) if order is None else order, key=lambda row: blank[row])
    groups: list[list[int]] = []
    columns = reads = 0
    for row in rows:
        count = len(groups[-1]) + 1 if groups else 1
        fits = count * columns <= limits.tokens and (count <= limits.rows or reads + read[row] <= limits.head_rows)
        if groups and fits:
            groups[-1].append(row)
            reads += read[row]
        else:
            groups.append([row])
            columns, reads = width - blank[row] + completion, read[row]
    indices = torch.tensor(rows, device=device).split([len(group) for group in groups])
    return [
        Chunk(index, blank[group[0]], any(tokens[row] < width - blank[group[0]] for row in group))
        for index, group in zip(indices, groups, strict=True)
    ]
