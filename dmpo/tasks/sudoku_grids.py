"""The valid 4×4 grids, in one fixed order."""

from __future__ import annotations

import itertools
from functools import cache
from random import Random

from ..rewards.sudoku_reward import units


@cache
def all_grids() -> tuple[str, ...]:
    """The 288 valid 4×4 grids as strings of 16 digits, in one fixed shuffled order."""
    rows = ["".join(p) for p in itertools.permutations("1234")]
    grids = [""]
    for _ in range(4):
        grids = [grid + row for grid in grids for row in rows if _repeats_nothing(grid + row)]
    Random("sudoku4 splits").shuffle(grids)
    return tuple(grids)


def _repeats_nothing(start: str) -> bool:
    units_so_far = ([start[i] for i in unit if i < len(start)] for unit in units(4))
    return all(len(set(digits)) == len(digits) for digits in units_so_far)
