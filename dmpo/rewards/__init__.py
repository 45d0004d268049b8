"""Rewards: pure functions `(completions, **columns) -> list[float]`. They take bounded time and raise on no text.

A user's reward is a function of the same form, or of another form that docs/rewards.md describes. The config names it
as `module:function`; `RewardPool` runs it.
"""

from __future__ import annotations

from .call import Reward, find_object, load_object, score
from .countdown_reward import countdown
from .entries import RewardEntry, chosen_rewards
from .errors import RewardError
from .gsm8k_reward import gsm8k
from .judging import judge
from .math_reward import math
from .outcomes import Failure, Scores
from .pool import RewardPool
from .shaping import exact_answer, format, length, repetition
from .sudoku_reward import HOLES, is_sudoku, sudoku, sudoku_cells, sudoku_holes, sudoku_solved

__all__ = [
    "HOLES",
    "Failure",
    "Reward",
    "RewardEntry",
    "RewardError",
    "RewardPool",
    "Scores",
    "chosen_rewards",
    "countdown",
    "exact_answer",
    "find_object",
    "format",
    "gsm8k",
    "is_sudoku",
    "judge",
    "length",
    "load_object",
    "math",
    "repetition",
    "score",
    "sudoku",
    "sudoku_cells",
    "sudoku_holes",
    "sudoku_solved",
]
