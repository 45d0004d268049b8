"""Rows that are the same while every completion is all masks: the first model call runs once for each kind of row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Alike:
    """Which rows of a model call are the same. Without tensors no two rows are.

    first: int64 [D], the first row of each kind; kind: int64 [R or 2R], the kind of each row of `Canvas.inputs`.
    """

    first: Tensor | None = None
    kind: Tensor | None = None

    def one_of_each(self, rows: Tensor) -> Tensor:
        """[R or 2R, ...] -> [D, ...]"""
        return rows if self.first is None else rows.index_select(0, self.first)

    def to_all(self, kinds: Tensor) -> Tensor:
        """[D, ...] -> [R or 2R, ...]"""
        return kinds if self.kind is None else kinds.index_select(0, self.kind)


NO_ROWS_ALIKE = Alike()


def alike_rows(prompts: Tensor, attended: Tensor | None, guided: bool, device: torch.device) -> Alike:
    """The kinds of rows of a canvas: rows with the same tokens in their prompts are the same.

    With guidance, rows without their prompt follow, and those with equally many tokens in their prompts are the same.

    prompts: int64 [B, P], on the host; attended: bool [B, P], on the host, True at tokens (None: everywhere).
    device: the device that the tensors of the result are for.
    """
    rows = list(prompts.numpy())
    if attended is not None:
        rows = [row[of_prompt] for row, of_prompt in zip(rows, attended.numpy(), strict=True)]
    names: list[bytes | int] = [row.tobytes() for row in rows]
    if guided:
        names += [len(row) for row in rows]
    first: dict[bytes | int, int] = {}
    for number, name in enumerate(names):
        first.setdefault(name, number)
    if len(first) == len(names):
        return NO_ROWS_ALIKE
    number_of = {name: kind for kind, name in enumerate(first)}
    kinds = [number_of[name] for name in names]
    # Pinned, so that the copy does not wait for the device.
    table = torch.tensor([*first.values(), *kinds], pin_memory=device.type == "cuda").to(device, non_blocking=True)
    return Alike(table[: len(first)], table[len(first) :])
