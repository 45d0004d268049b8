"""9×9 Sudoku. The puzzles are made here: every puzzle has one solution, and a solution belongs to one split."""

from __future__ import annotations

from functools import lru_cache
from random import Random

from ..rewards.sudoku_reward import units
from .splits import hashed_split
from .sudoku import Sudoku

_ALL = (1 << 9) - 1
_UNITS_OF = [[u for u, unit in enumerate(units(9)) if cell in unit] for cell in range(81)]  # row, column and box


class Sudoku9(Sudoku):
    """The prompt has 81 cells with `.` for a hole; the completion has the 81 cells of the solved grid.

    If one more hole would allow a second solution, the puzzle has fewer holes than were drawn (rare up to 50 holes).
    For arguments see `Sudoku`.
    """

    SIZE, DEFAULT_HOLES = 9, (30, 45)

    def draw(self, split: str, index: int) -> tuple[str, str]:
        """Puzzle and solution `index` of a split. They depend only on (split, index) and on the limits of the holes."""
        return make_puzzle(split, index, self.min_holes, self.max_holes)


@lru_cache(maxsize=1 << 16)
def make_puzzle(split: str, index: int, min_holes: int, max_holes: int) -> tuple[str, str]:
    """A puzzle with one solution, and the solution, as strings of 81 cells."""
    random = Random(f"sudoku9/{split}/{index}")
    solution = random_grid(random)
    while hashed_split(solution, held_out=10) != split:
        solution = random_grid(random)
    cells = [int(c) for c in solution]
    holes = random.randint(min_holes, max_holes)
    for cell in random.sample(range(81), 81):
        if cells.count(0) == holes:
            break
        if not _has_other_solution(cells, cell):
            cells[cell] = 0
    return "".join(str(c or ".") for c in cells), solution


def random_grid(random: Random) -> str:
    """A full grid, drawn by backtracking: cells get random digits, and the last choice changes if no digit fits."""
    cells = [0] * 81
    for box, digits in zip((0, 30, 60), (random.sample(range(1, 10), 9) for _ in range(3)), strict=True):
        for i, digit in enumerate(digits):  # boxes on the diagonal share no row or column, so any digits fit
            cells[box + i // 3 * 9 + i % 3] = digit
    assert solve(cells, random)
    return "".join(map(str, cells))


def solve(cells: list[int], random: Random | None = None) -> bool:
    """Fill the empty cells (0) in place with a solution, and return whether there is one. `random` draws it."""
    free = [_ALL] * 27  # the digits that a unit still lacks, as bits
    for cell, digit in enumerate(cells):
        if digit:
            for unit in _UNITS_OF[cell]:
                if not free[unit] >> (digit - 1) & 1:
                    return False
                free[unit] ^= 1 << (digit - 1)
    return _fill(cells, [cell for cell in range(81) if not cells[cell]], free, random)


def _fill(cells: list[int], empty: list[int], free: list[int], random: Random | None) -> bool:
    best, fewest, choices = -1, 10, 0
    for index, cell in enumerate(empty):
        row, column, box = _UNITS_OF[cell]
        candidates = free[row] & free[column] & free[box]
        count = candidates.bit_count()
        if count < fewest:
            best, fewest, choices = index, count, candidates
            if count <= 1:
                break
    if best < 0:
        return True
    if not fewest:
        return False
    cell = empty[best]
    others = empty[:best] + empty[best + 1 :]
    digits = [d for d in range(1, 10) if choices >> (d - 1) & 1]
    if random:
        random.shuffle(digits)
    for digit in digits:
        bit = 1 << (digit - 1)
        for unit in _UNITS_OF[cell]:
            free[unit] ^= bit
        cells[cell] = digit
        if _fill(cells, others, free, random):
            return True
        for unit in _UNITS_OF[cell]:
            free[unit] ^= bit
    cells[cell] = 0
    return False


def _has_other_solution(cells: list[int], cell: int) -> bool:
    """Whether a solution with another digit in this cell exists. Then the puzzle without the cell has two solutions."""
    present = {cells[i] for unit in _UNITS_OF[cell] for i in units(9)[unit]}
    for digit in set(range(1, 10)) - present:
        trial = list(cells)
        trial[cell] = digit
        if solve(trial):
            return True
    return False
