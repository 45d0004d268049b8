"""A reward of your own: a plain function of completions.

    python examples/own_reward.py

A reward gets the completions of some prompts and the columns of their rows, each as a list. It returns one finite
number for each completion. This one ignores the puzzle and counts the digit 4.
"""

from __future__ import annotations

import tempfile
from typing import Any

from dmpo import DMPOConfig, DMPOTrainer


def fours(completions: list[str], **columns: list[Any]) -> list[float]:
    """The share of the 16 cells that hold a 4. It needs none of the columns of `sudoku4`: prompt, puzzle, solution."""
    return [text.count("4") / 16 for text in completions]


def main() -> None:
    config = DMPOConfig(
        model="sudoku-tiny",  # comes with the package
        task="sudoku4",
        output_dir=tempfile.mkdtemp(prefix="own-reward-"),
        dtype="float32",
        lora_r=0,  # train every weight
        num_prompts=2,
        num_generations=8,
        gen_length=16,
        block_length=16,
        steps=4,
        temperature=1.0,
        early_stop=False,
        max_prompt_length=16,
        alpha=0.02,  # small beside the differences of rewards: the target stands for the best completions alone
        learning_rate=1e-3,
        warmup_steps=1,
        max_grad_norm=1.0,
        replicates=2,
        score_views=2,
        gradient_steps=4,
        max_steps=8,
        micro_batch_size=0,
        eval_steps=0,
        eval_prompts=4,
    )
    # A function object runs in this process. Where a reward may hang or crash, name it in the config instead:
    # reward="own_reward:fours" runs it in processes of its own, with `reward_timeout` seconds a call.
    DMPOTrainer(config, reward=fours).train()


if __name__ == "__main__":
    main()
