"""If these fail, a run does not approach its target, or a fault of the weights would go unseen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.study.exact.instances import INSTANCES
from benchmarks.study.exact.measures import Measures, log_policy_of
from benchmarks.study.exact.training import Run
from dmpo.rollouts.batch import Batch

KEYS: dict[str, Any] = {
    "num_generations": 128,
    "learning_rate": 5e-3,
    "gradient_steps": 4,
    "lr_scheduler_type": "cosine",
    "max_steps": 48,
}
SPREAD = 3.0  # so that the reference is part of the target
BOUND = 0.8  # nats, from 0.90; a sound run ends near 0.63, the mildest fault above 1


class Faulty(Run):
    """A run whose rounds come out changed."""

    fault: Callable[[Batch], Batch] | None = None

    def collect(self, index: int) -> Batch:
        batch = super().collect(index)
        return batch if self.fault is None else self.fault(batch)


def kl(fault: Callable[[Batch], Batch] | None = None) -> tuple[float, float]:
    """KL(p* ‖ p_θ) before and after."""
    instance, threads = INSTANCES["additive"], torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run = Faulty(instance, KEYS, spread=SPREAD)
        run.fault = fault
        target = instance.target(run.log_ref)
        before = Measures.of(run.log_ref, target, instance).kl_forward
        run.train(run.config.max_steps)
        return before, Measures.of(log_policy_of(run.model), target, instance).kl_forward
    finally:
        torch.set_num_threads(threads)


def test_wdce_without_a_baseline_approaches_the_target() -> None:
    before, after = kl()
    assert before > 0.88
    assert after < BOUND


def wrong_sign(batch: Batch) -> Batch:
    return dataclasses.replace(batch, rewards=-batch.rewards)


def no_ratio(batch: Batch) -> Batch:
    """Without the ratio p_ref/p_cur; also what a reference gives that is refreshed with every round."""
    return dataclasses.replace(batch, log_prob_cur=batch.log_prob_ref)


def stale_reference() -> Callable[[Batch], Batch]:
    """The reference's log-probabilities stay those of the completions of the first round."""
    first: list[torch.Tensor] = []

    def fault(batch: Batch) -> Batch:
        first.append(batch.log_prob_ref)
        return dataclasses.replace(batch, log_prob_ref=first[0])

    return fault


@pytest.mark.parametrize("fault", [wrong_sign, no_ratio, stale_reference()])
def test_a_fault_of_the_weights_breaks_the_bound(fault: Callable[[Batch], Batch]) -> None:
    assert kl(fault)[1] > BOUND


def test_a_stale_policy_at_rollout_time_breaks_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """log p_cur stays that of the first round, as if the policy were scored once."""
    first: list[dict[str, torch.Tensor]] = []
    score = Run.score

    def stale(run: Run, policy: Any, *inputs: Any) -> torch.Tensor:
        if not first:
            first.append({name: value.clone() for name, value in policy.state_dict().items()})
        now = {name: value.clone() for name, value in policy.state_dict().items()}
        policy.load_state_dict(first[0])
        try:
            return score(run, policy, *inputs)
        finally:
            policy.load_state_dict(now)

    monkeypatch.setattr(Run, "score", stale)
    assert kl()[1] > BOUND
