"""Rewards: pure functions `(completions, **columns) -> list[float]`. They take bounded time and raise on no text.

A user's reward is a plain function of the same form. The config names it as `module:function`; `RewardPool` runs it.
"""

from __future__ import annotations

from .call import Reward, RewardError, find_object, load_object, score
from .countdown_reward import countdown
from .gsm8k_reward import gsm8k
from .math_reward import math
from .outcomes import Failure, Scores
from .pool import RewardPool
from .sudoku_reward import HOLES, is_sudoku, sudoku, sudoku_cells, sudoku_solved

__all__ = [
    "HOLES",
    "Failure",
    "Reward",
    "RewardError",
    "RewardPool",
    "Scores",
    "countdown",
    "find_object",
    "gsm8k",
    "is_sudoku",
    "load_object",
    "math",
    "score",
    "sudoku",
    "sudoku_cells",
    "sudoku_solved",
]
