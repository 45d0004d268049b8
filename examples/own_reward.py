"""A reward of your own: a plain function of completions.

    python examples/own_reward.py

A reward gets the completions of some prompts and the columns of their rows, each as a list. It returns one finite
number for each completion. This one ignores the puzzle and counts the digit 4.
"""

from __future__ import annotations

import dataclasses
import tempfile
from typing import Any

from dmpo import DMPOConfig, DMPOTrainer
from dmpo.config import load_config


def fours(completions: list[str], **columns: list[Any]) -> list[float]:
    """The share of the 16 cells that hold a 4. It needs none of the columns of `sudoku4`: prompt, puzzle, solution."""
    return [text.count("4") / 16 for text in completions]


def main() -> None:
    config = dataclasses.replace(
        load_config(DMPOConfig, "sudoku-tiny"),  # its model comes with the package
        output_dir=tempfile.mkdtemp(prefix="own-reward-"),
        num_prompts=2,
        alpha=0.02,  # small beside the differences of rewards: the target stands for the best completions alone
        learning_rate=1e-3,
        warmup_steps=1,
        gradient_steps=4,
        max_steps=8,
        eval_steps=0,
        eval_prompts=4,
    )
    # A function object runs in this process. Where a reward may hang or crash, name it in the config instead:
    # reward="own_reward:fours" runs it in processes of its own, with `reward_timeout` seconds a call.
    DMPOTrainer(config, reward=fours).train()


if __name__ == "__main__":
    main()
