"""Rounds of a tiny model: configs of each decoder, the model, and `collect` on a task of seconds."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from dmpo import DMPOConfig
from dmpo.objectives.gradient import objective_of
from dmpo.pretrain import character_tokenizer
from dmpo.rewards import RewardPool
from dmpo.rollouts.batch import Batch
from dmpo.rollouts.policy import ReferencePolicy
from dmpo.rollouts.rollout import collect
from tests import devices
from tests.small_runs import CountOnes, settings
from tests.tiny_models import tiny

MASK, EOS = 1, 0
RULES: dict[str, dict[str, Any]] = {
    "parallel": {"threshold": 0.25},
    "prefix_cache": {"factor": 1.0},
    "dual_cache": {"threshold": 0.25},
    "risk": {"threshold": 0.4},
    "entropy": {"entropy_bound": 1.0},
    "hierarchy": {"threshold": 0.6, "low_threshold": 0.25},
    "credit": {"threshold": 0.6, "credit_alpha": 1.5},
    "wino": {"wino_threshold": 0.3, "wino_threshold_back": 0.5},
}


def config(decoder: Any, **changes: Any) -> DMPOConfig:
    sizes: dict[str, Any] = {"gen_length": 8, "block_length": 4, "steps": 4, "decoder": decoder}
    return settings(Path(), **(sizes | RULES.get(decoder, {}) | changes))


def model() -> Any:
    return tiny(vocab_size=7, mask_id=MASK, eos_id=EOS, max_length=32)


def a_round(
    policy: Any,
    reference: ReferencePolicy,
    options: DMPOConfig,
    round_index: int = 1,
    *,
    task: Any = None,
    reward: Any = None,
) -> Batch:
    task = task or CountOnes()
    return collect(
        devices.accelerator(),
        model=policy,
        reference=reference,
        tokenizer=character_tokenizer(),
        task=task,
        reward=RewardPool(reward or task.reward),
        objective=objective_of(options),
        config=options,
        round_index=round_index,
        clock=lambda phase: nullcontext(),
    )
