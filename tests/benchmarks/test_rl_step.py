"""If these fail, the RL step that ours is measured against is not the same step: another problem, not a slower way."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from benchmarks.baselines.rl_step import published_collect, published_gradient
from benchmarks.harness.clock import CpuGauge, Phases
from benchmarks.harness.setting import Setting
from benchmarks.measured.rl_step import Bench
from dmpo.config import DMPOConfig
from dmpo.objectives.gradient import accumulate_gradient, objective_of
from dmpo.rollouts.batch import Batch
from dmpo.rollouts.rollout import collect


@pytest.fixture(scope="module")
def bench() -> Bench:
    """A policy that differs from its reference."""
    made = Bench(Setting(quick=True, threads=1))
    torch.manual_seed(0)
    for parameter in made.trainable:
        torch.nn.init.normal_(parameter, std=0.1)
    return made


@pytest.fixture(scope="module")
def config(bench: Bench) -> DMPOConfig:
    return dataclasses.replace(bench.config, temperature=0.0, num_prompts=2, num_generations=3, micro_batch_size=5)


@pytest.fixture(scope="module")
def batch(bench: Bench, config: DMPOConfig) -> Batch:
    actors = (bench.policy, bench.tokenizer, bench.task, bench.reward)
    clock = Phases(CpuGauge())
    found = published_collect(*actors, config, clock)
    clock.stop()
    return found


def test_greedy_rounds_are_the_same(bench: Bench, config: DMPOConfig, batch: Batch) -> None:
    clock = Phases(CpuGauge())
    ours = collect(
        bench.accelerator,
        model=bench.policy,
        reference=bench.reference,
        tokenizer=bench.tokenizer,
        task=bench.task,
        reward=bench.reward,
        objective=objective_of(config),
        config=config,
        round_index=0,
        clock=clock,
    )
    assert torch.equal(ours.completions.prompt_ids, batch.completions.prompt_ids)
    assert torch.equal(ours.completions.tokens, batch.completions.tokens)
    assert (batch.completions.tokens != bench.mask_id).all()
    torch.testing.assert_close(ours.rewards, batch.rewards)
    torch.testing.assert_close(ours.log_prob_cur, batch.log_prob_cur, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(ours.log_prob_ref, batch.log_prob_ref, rtol=1e-5, atol=1e-4)
    assert (batch.log_prob_ref - batch.log_prob_cur).abs().min() > 1e-2
    assert set(clock.stop()) == {"rollout", "reward", "score"}


@pytest.mark.parametrize("baseline", ["negative", "none"])
def test_gradients_are_the_same(bench: Bench, config: DMPOConfig, batch: Batch, baseline: Any) -> None:
    config = dataclasses.replace(config, baseline=baseline)
    rewards = torch.tensor([[0.1, 0.0, 0.2], [0.1, 0.3, 0.0]])
    batch = dataclasses.replace(batch, rewards=rewards)

    def gradient() -> list[torch.Tensor]:
        found = [parameter.grad for parameter in bench.trainable if parameter.grad is not None]
        assert len(found) == len(bench.trainable)
        bench.optimizer.zero_grad()
        return found

    loss = published_gradient(bench.policy, batch, config, bench.mask_id, step=3)
    published = gradient()
    result = accumulate_gradient(bench.accelerator, bench.policy, bench.policy, batch, config, 3)
    assert loss == pytest.approx(result.loss, rel=1e-4)
    for ours, theirs in zip(gradient(), published, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert max(part.abs().max() for part in published) > 1e-2
