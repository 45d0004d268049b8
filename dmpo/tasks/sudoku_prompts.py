"""The prompts of two public protocols of 4×4 Sudoku.

Published numbers depend on the prompt, so the instruction is the public one, word for word: `eval/sudoku.py` of d1
(Zhao et al., arXiv 2504.12216; github.com/dllm-reasoning/d1, Apache 2.0). The puzzles of the three examples and the
order of the prompt are of SPG (arXiv 2510.09541). The steps of the examples are written here.
"""

from __future__ import annotations

from ..rewards.sudoku_reward import units
from .templates import worked_example

INSTRUCTION = """
Please solve the following 4x4 Sudoku puzzle. The puzzle is provided as a 16-character string reading left-to-right, \
top-to-bottom, where '0' represents empty cells.

Rules:
- Fill empty cells with digits 1-4
- Each row must contain digits 1-4 exactly once
- Each column must contain digits 1-4 exactly once
- Each 2x2 box must contain digits 1-4 exactly once

Important: Your solution must be a COMPLETE 16-character string with only the digits 1-4, representing your final \
solved grid.

Respond in this exact format:
<reasoning>
Your step-by-step solving process
</reasoning>
<answer>
[16-character solution string with no spaces or separators]
</answer>
"""
QUESTION = "Solve the following Sudoku puzzle: "
SHOTS = (  # puzzle and solution
    ("3014002020004130", "3214142323414132"),
    ("0000100420013142", "4213132424313142"),
    ("2001403002001420", "2341413232141423"),
)


def zero_shot_template() -> str:
    """The instruction, then the puzzle."""
    return f"{INSTRUCTION}\n\n{QUESTION}{{puzzle}}\n"


def three_shot_template() -> str:
    """The instruction, the three examples, then the puzzle."""
    examples = (f"Question:\n{QUESTION}{puzzle}\nAnswer:\n{worked(puzzle, grid)}" for puzzle, grid in SHOTS)
    return "\n\n".join([INSTRUCTION, *examples, f"Question: {QUESTION}{{puzzle}}\nAnswer:\n"])


def worked(puzzle: str, grid: str) -> str:
    """A completion that fills one cell after another, each with the only digit that fits.

    Raises:
        ValueError: no cell is left that has only one digit that fits.
    """
    steps = ["The puzzle has the rows", _rows(puzzle), "", "Cells where one digit fits:"]
    while "0" in puzzle:
        cell = next((i for i, mark in enumerate(puzzle) if mark == "0" and len(_fitting(puzzle, i)) == 1), None)
        if cell is None:
            raise ValueError(f"puzzle {puzzle} has no cell with only one digit that fits")
        (digit,) = _fitting(puzzle, cell)
        steps.append(f"R{cell // 4 + 1}C{cell % 4 + 1} = {digit}")
        puzzle = puzzle[:cell] + digit + puzzle[cell + 1 :]
    assert puzzle == grid
    return worked_example("\n".join([*steps, "", "The grid has the rows", _rows(grid)]), grid)


def _rows(cells: str) -> str:
    return "\n".join(f"R{r + 1}: {' '.join(cells[4 * r : 4 * r + 4])}" for r in range(4))


def _fitting(puzzle: str, cell: int) -> set[str]:
    return set("1234") - {puzzle[i] for unit in units(4) if cell in unit for i in unit}
