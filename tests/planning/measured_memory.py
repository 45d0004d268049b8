"""Small policies and batches, the memory that PyTorch allocates for them, and a plan beside it."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.memory import simulated_step as simulated
from dmpo.config import DMPOConfig
from dmpo.models import new_model
from dmpo.models.masked_lm import unwrap
from dmpo.planning.plan import Plan
from dmpo.rollouts.batch import Batch, Completions
from dmpo.rollouts.policy import make_policy

WIDTHS: dict[str, Any] = {"vocab_size": 512, "hidden_size": 64, "num_layers": 2, "num_heads": 4, "mlp_hidden_size": 192}
ALLOWED = 0.08  # half of what is promised


def small(**changes: Any) -> DMPOConfig:
    sizes = {"max_prompt_length": 24, "gen_length": 32, "block_length": 8, "steps": 8, "rollout_batch_size": 8}
    counts = {"num_prompts": 1, "num_generations": 2, "micro_batch_size": 4}
    return DMPOConfig(
        **{"model": "", "task": "", "output_dir": "", "dtype": "float32", "lora_r": 8, **sizes, **counts, **changes}
    )


def policy_of(config: DMPOConfig, **widths: int) -> tuple[Any, Any]:
    model = new_model(
        **{**WIDTHS, **widths, "mask_id": 3, "eos_id": 2, "attn_implementation": config.attn_implementation}
    )
    policy = make_policy(config, "cpu", model.to(getattr(torch, config.dtype)))
    return policy, unwrap(policy).config


def batch_of(config: DMPOConfig) -> Batch:
    """Random tokens; the first row is padded, so that attention needs its mask."""
    blank, draw = simulated.empty_batch(config, config.num_prompts), torch.Generator().manual_seed(0)
    shapes = (blank.completions.prompt_ids.shape, blank.completions.tokens.shape)
    prompts, tokens = (torch.randint(4, 100, shape, generator=draw) for shape in shapes)
    blank.completions.prompt_mask[0, :3] = False
    completions = Completions(prompts, blank.completions.prompt_mask, tokens, blank.completions.eligible)
    return dataclasses.replace(blank, completions=completions, rewards=torch.rand(blank.rewards.shape, generator=draw))


def measured(run: Callable[[], Any]) -> int:
    """The most bytes that PyTorch had allocated at once, above what was there before."""
    gc.collect()
    with torch.autograd.profiler.profile(profile_memory=True, use_kineto=True) as profile:
        run()
    events = [(e.start_ns(), e.nbytes()) for e in profile.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for _, change in sorted(events, key=lambda event: event[0]):
        live += change
        peak = max(peak, live)
    return peak


def beside_weights(found: Plan, phase: str) -> int:
    """What the phase allocates on top of weights, reference and moments; without the CUDA context."""
    categories = ("merged weights", "gradients", "activations", "caches", "logits", "other")
    return sum(found.phases[phase][category] for category in categories)


def check(found: Plan, phase: str, got: int) -> None:
    assert beside_weights(found, phase) == pytest.approx(got, rel=ALLOWED), found.phases[phase]
