"""Batches for gradients: groups of random completions, their configs, and one-step scores near a tiny model's."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from dmpo import DMPOConfig
from dmpo.objectives.diffu_grpo import CUR, REF
from dmpo.objectives.gradient import accumulate_gradient
from dmpo.objectives.one_step import one_step_log_probs
from dmpo.rollouts.batch import Batch, Completions
from tests import devices
from tests.tiny_models import tiny, tokens

GROUPS, SIZE, PROMPT, LENGTH, MASK = 3, 4, 5, 8, 3
STEP, INNER = 5, 8  # the sixth gradient step of the first round
OPTIONS: dict[str, dict[str, Any]] = {
    "wd1": {"loss": "wd1", "wd1_psi": 1.7, "replicates": 3},
    "diffu_grpo": {"loss": "diffu_grpo", "clip_epsilon": 0.3, "kl_beta": 0.2, "replicates": 3},
}


def rollouts(*, truncated: bool = True) -> Batch:
    count = GROUPS * SIZE
    prompt_ids, completion_ids = tokens(count, PROMPT, seed=1), tokens(count, LENGTH, seed=2)
    whole = torch.ones_like(completion_ids).bool()
    if truncated:
        whole[2, 5:] = False
    completions = Completions(prompt_ids, torch.ones_like(prompt_ids).bool(), completion_ids, whole)
    rewards, ref, cur = torch.randn(3, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Batch(
        completions=completions,
        row_ids=torch.arange(count),
        rewards=rewards.view(GROUPS, SIZE),
        log_prob_ref=ref.view(GROUPS, SIZE),
        log_prob_cur=cur.view(GROUPS, SIZE),
        age=torch.zeros(GROUPS).long(),
        report={},
    )


def config(**changes: Any) -> DMPOConfig:
    return DMPOConfig(model="", task="", output_dir="", num_generations=SIZE, alpha=0.5, strength=0.7, **changes)


def gradients(settings: DMPOConfig, batch: Batch, **sizes: Any) -> tuple[float, list[torch.Tensor]]:
    model = tiny(**sizes).double()
    result = accumulate_gradient(devices.accelerator(), model, model, batch, settings, step=5)
    return result.loss, [p.grad for p in model.parameters() if p.grad is not None]


def one_step_config(loss: str, **changes: Any) -> DMPOConfig:
    return config(**{**OPTIONS[loss], "gradient_steps": INNER, **changes})


def scored(config: DMPOConfig) -> Batch:
    """Rollouts whose scores lie around the scores of the tiny model, near enough that the clip spares some."""
    batch = rollouts()
    of_model = one_step_log_probs(tiny().double(), batch.completions, batch.row_ids, config)
    draw = torch.Generator().manual_seed(3)
    cur, ref = (of_model + 0.5 * torch.randn(of_model.shape, generator=draw, dtype=of_model.dtype) for _ in range(2))
    return dataclasses.replace(batch, scores={CUR: cur, **({REF: ref} if config.kl_beta else {})})
