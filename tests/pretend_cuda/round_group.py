"""One RL round (rollout, reward, scoring, update) on the pretend device, for every objective and option of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from dmpo.config import DMPOConfig
from dmpo.kernels import launch
from dmpo.objectives.gradient import accumulate_gradient, objective_of
from dmpo.pretrain import character_tokenizer
from dmpo.rewards import RewardPool
from dmpo.rollouts.policy import ReferencePolicy, make_policy
from dmpo.rollouts.rollout import collect
from tests.pretend_cuda.accelerator import on_cpu, on_pretend_cuda
from tests.pretend_cuda.counts import counting
from tests.pretend_cuda.device import pretend_cuda
from tests.pretend_cuda.tensor import module_on_device, on_host
from tests.small_runs import CountOnes
from tests.tiny_models import tiny

BASE: dict[str, Any] = {
    "model": "tiny",
    "task": "sudoku4",
    "output_dir": "",
    "dtype": "float32",
    "lora_r": 2,
    "lora_dropout": 0.0,
    "num_prompts": 1,
    "num_generations": 2,
    "gen_length": 4,
    "block_length": 2,
    "steps": 2,
    "temperature": 1.0,
    "early_stop": False,
    "max_prompt_length": 4,
    "rollout_batch_size": 2,
    "replicates": 2,
    "score_views": 2,
    "micro_batch_size": 2,
    "alpha": 0.5,
}
ONE_STEP = {"replicates": 1, "antithetic": False}
CASES: dict[str, dict[str, Any]] = {
    "wdce": {},
    "wdce, baseline mean": {"baseline": "mean"},
    "wdce, baseline theta": {"baseline": "theta"},
    "wdce, baseline none": {"baseline": "none"},
    "wdce, reward weighting": {"weighting": "reward", "baseline": "mean"},
    "wdce, ess_target": {"ess_target": 0.6},
    "wddo": {"loss": "wddo", "replicates": 4},
    "rspo": {"loss": "rspo", "replicates": 4},
    "tb": {"loss": "tb", "replicates": 4},
    "wdce_path": {"loss": "wdce_path", "decoder": "random_order", "baseline": "theta"},
    "wd1": {"loss": "wd1", **ONE_STEP},
    "diffu_grpo": {"loss": "diffu_grpo", **ONE_STEP},
    "random_order": {"decoder": "random_order"},
    "stratified views": {"view_rates": "stratified"},
    "gauss views": {"view_rates": "gauss", "antithetic": False},
    "views by confidence": {"view_positions": "confidence"},
    "dual_cache": {"decoder": "dual_cache", "threshold": 0.5, "early_stop": True, "truncate_at_eos": True},
    "merged adapters": {"merge_adapters": True},
    "full training": {"lora_r": 0},
    "refreshed reference": {"reference_refresh_steps": 1},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "prompts drawn anew": {"skip_equal_rewards": True, "resample_prompts": 4},
}


def reward(completions: list[str], **columns: list[Any]) -> list[float]:
    """Different for different completions: groups of equal rewards have coefficients of 0."""
    return [sum((i + 1) * ord(c) for i, c in enumerate(text)) % 97 / 97 for text in completions]


def coarse(completions: list[str], **columns: list[Any]) -> list[float]:
    """Often the same for both completions of a prompt."""
    return [float("1" in text) for text in completions]


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """loss: [device, CPU]. same: share of equal tokens. gradient_error: over the largest gradient of its parameter.

    phases: counts of each phase of the round. missing: parameters with a gradient on one side alone.
    """
    config = DMPOConfig(**(BASE | case))
    with launch.plain_path(True), on_cpu():
        wanted, _ = _round(config, to_device=False)
    with pretend_cuda(), on_pretend_cuda():
        found, phases = _round(config, to_device=True)
    pairs = {name: (found["gradients"][name], wanted["gradients"][name]) for name in wanted["gradients"]}
    missing = [name for name, pair in pairs.items() if (pair[0] is None) != (pair[1] is None)]
    errors = [_error(*pair) for pair in pairs.values() if None not in pair]
    reports = {name: [found["report"][name], value] for name, value in wanted["report"].items()}
    return {
        "loss": [found["loss"], wanted["loss"]],
        "same": float((found["tokens"] == wanted["tokens"]).float().mean()),
        "gradient_error": max(errors),
        "missing": missing,
        "reports": reports,
        "phases": phases,
    }


def _round(config: DMPOConfig, *, to_device: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    # token ids of the character tokenizer: 0 EOS, 1 mask
    policy: nn.Module = make_policy(config, "cpu", tiny(vocab_size=7, mask_id=1, eos_id=0, max_length=32, num_layers=1))
    if to_device:
        module_on_device(policy)
    accelerator, task = Accelerator(cpu=not to_device), CountOnes()
    reference = ReferencePolicy(policy, refreshable=config.reference_refresh_steps > 0)
    phases: dict[str, Any] = {}

    @contextmanager
    def clock(name: str) -> Iterator[None]:
        with counting() as counted:
            yield
        phases[name] = counted.record()

    pool = RewardPool(coarse if config.resample_prompts else reward)
    batch = collect(
        accelerator,
        model=policy,
        reference=reference,
        tokenizer=character_tokenizer(),
        task=task,
        reward=pool,
        objective=objective_of(config),
        config=config,
        round_index=0,
        clock=clock,
    )
    with clock("update"):
        result = accumulate_gradient(accelerator, policy, policy, batch, config, 0)
    if config.reference_refresh_steps:
        with clock("refresh"):
            reference.refresh()
            with reference.active():
                pass
    gradients = {name: on_host(p.grad) for name, p in policy.named_parameters() if p.requires_grad}
    outcome = {"loss": result.loss, "tokens": on_host(batch.completions.tokens), "gradients": gradients}
    return outcome | {"report": {**result.report, **batch.report}}, phases


def _error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6))
