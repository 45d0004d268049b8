"""A task of your own: a class with a template and four methods.

    python examples/own_task.py

A config names such a class as `task: own_task:SortDigits`; its arguments are the config's `task_options`.
"""

from __future__ import annotations

import dataclasses
import tempfile
from random import Random
from typing import Any

from dmpo import DMPOConfig, DMPOTrainer
from dmpo.config import load_config
from dmpo.tasks.splits import hashed_split


class SortDigits:
    """Prompt: digits from 1 to 4. Completion: the same digits, the smallest first.

    Args:
        length: digits of a prompt.
    """

    template = "{digits}"  # the prompt; every result records it

    def __init__(self, length: int = 8) -> None:
        if length < 1:
            raise ValueError(f"length must be ≥ 1, got {length}")
        self.length = length

    def row(self, split: str, index: int) -> dict[str, Any]:
        """Row `index` of a split. The same arguments give the same row on every machine."""
        random = Random(f"sort/{split}/{index}")
        while True:
            digits = "".join(random.choices("1234", k=self.length))
            if hashed_split(digits) == split:  # a text belongs to one split alone, which its hash chooses
                return {"prompt": digits, "answer": "".join(sorted(digits))}

    def reward(self, completions: list[str], *, answer: list[str], **others: list[Any]) -> list[float]:
        """The share of digits that stand in their place. A model may write anything, so this must never raise."""
        pairs = zip(completions, answer, strict=True)
        return [sum(a == b for a, b in zip(text, right, strict=False)) / len(right) for text, right in pairs]

    def solved(self, completion: str, row: dict[str, Any]) -> bool:
        """Whether a completion counts as right in an accuracy."""
        return completion.strip() == row["answer"]

    def show(self, completion: str, row: dict[str, Any]) -> str:
        """One line for the end of a run, in the markup of rich."""
        colour = "green" if self.solved(completion, row) else "red"
        return f"{row['prompt']} → [{colour}]{completion[:40]!r}[/]"


def main() -> None:
    config = dataclasses.replace(
        load_config(DMPOConfig, "sudoku-tiny"),  # its model comes with the package and knows the digits from 1 to 4
        task="own_task:SortDigits",
        task_options={"length": 8},
        output_dir=tempfile.mkdtemp(prefix="own-task-"),
        num_prompts=2,
        gen_length=8,
        block_length=8,
        max_prompt_length=8,
        alpha=0.1,
        learning_rate=1e-4,
        warmup_steps=1,
        gradient_steps=2,
        max_steps=4,
        eval_steps=0,
        eval_prompts=4,
    )
    DMPOTrainer(config).train()


if __name__ == "__main__":
    main()
