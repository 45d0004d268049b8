"""The run that tests train on several ranks, sharded or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dmpo.trainer
from tests.small_runs import CountOnes, settings, trainer

SIZES: dict[str, Any] = {
    "lora_dropout": 0.0,  # each rank draws its own
    "num_prompts": 3,  # of 5 completions each: no share is equal, and groups span ranks
    "num_generations": 5,
    "rollout_batch_size": 4,
    "micro_batch_size": 7,
    "max_steps": 4,
    "eval_prompts": 5,
    "save_steps": 1,
    "ess_target": 0.7,
    "buffer_rounds": 2,
    "decoder": "random_order",  # the one that has most to report
    "reward_weights": [1.0, 0.0],
}


def not_twos(completion: str) -> float | None:
    """Applies to completions without a 2."""
    return None if "2" in completion else completion.count("3") / 4


def train(folder: Path, changes: dict[str, Any], reward: Any = None) -> None:
    dmpo.trainer.plot_run = lambda *arguments: None  # in a process of its own
    if reward is not None:
        trainer(settings(folder, **(SIZES | {"reward_weights": []} | changes)), reward).train()
        return
    rewards = [{"function": CountOnes().reward, "name": "ones"}, not_twos]
    trainer(settings(folder, **(SIZES | changes)), rewards=rewards).train()
