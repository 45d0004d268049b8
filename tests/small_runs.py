"""Runs of seconds: a task that a random model learns, settings, a trainer, and what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dmpo import DMPOConfig, DMPOTrainer
from dmpo.pretrain import character_tokenizer
from dmpo.rewards import Reward
from tests.tiny_models import tiny


class CountOnes:
    """Prompt: a digit; solved by a completion of ones. What a random model can learn in seconds."""

    def row(self, split: str, index: int) -> dict[str, Any]:
        return {"prompt": "1234"[index % 4], "digit": index % 4}

    def reward(self, completions: list[str], **columns: list[Any]) -> list[float]:
        return [text.count("1") / 4 for text in completions]

    def solved(self, completion: str, row: dict[str, Any]) -> bool:
        return completion.count("1") >= 3

    def show(self, completion: str, row: dict[str, Any]) -> str:
        return completion


def settings(folder: Path, **changes: Any) -> DMPOConfig:
    values: dict[str, Any] = {
        "model": "tiny",
        "task": "sudoku4",
        "output_dir": str(folder),
        "dtype": "float32",
        "lora_r": 0,
        "num_prompts": 4,
        "num_generations": 4,
        "gen_length": 4,
        "block_length": 4,
        "steps": 2,
        "temperature": 1.0,
        "early_stop": False,
        "rollout_batch_size": 8,
        "max_prompt_length": 4,
        "alpha": 0.2,
        "replicates": 2,
        "score_views": 2,
        "max_steps": 6,
        "gradient_steps": 2,
        "learning_rate": 1e-3,
        "max_grad_norm": 1.0,
        "micro_batch_size": 8,
        "eval_prompts": 8,
        "eval_steps": 3,
        "save_steps": 3,
        "eval_temperature": 1.0,
    }
    return DMPOConfig(**(values | changes))


def trainer(config: DMPOConfig, reward: Reward | None = None, **objects: Any) -> DMPOTrainer:
    # token ids of the character tokenizer: 0 EOS, 1 mask, 2 '.', 3 to 6 the digits
    model = tiny(vocab_size=7, mask_id=1, eos_id=0, max_length=32)
    usual: dict[str, Any] = {"tokenizer": character_tokenizer(), "task": CountOnes(), "reward": reward}
    return DMPOTrainer(config, model=model, **usual | objects)


def lines(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
