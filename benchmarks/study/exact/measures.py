"""How far a policy is from the target, by sums over all completions."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from .enumeration import conditionals, log_distribution
from .instances import CONTENTS, LENGTH, PROMPT, Instance


@dataclass(frozen=True)
class Measures:
    """Of a policy p_θ beside the target p*.

    kl_forward: KL(p* ‖ p_θ), which DMPO minimises; kl_reverse: KL(p_θ ‖ p*), both in nats. reward: its mean under p_θ.
    entropy: of p_θ in nats. modes: the number of the instance's modes with p_θ ≥ p*/2.
    """

    kl_forward: float
    kl_reverse: float
    reward: float
    entropy: float
    modes: int

    @classmethod
    def of(cls, log_policy: Tensor, log_target: Tensor, instance: Instance) -> Measures:
        """From the log-probabilities of all completions, float64 [256] both."""
        policy, target = log_policy.exp(), log_target.exp()
        return cls(
            kl_forward=float((target * (log_target - log_policy)).sum()),
            kl_reverse=float((policy * (log_policy - log_target)).sum()),
            reward=float((policy * instance.rewards).sum()),
            entropy=float(-(policy * log_policy).sum()),
            modes=int((instance.modes & (policy >= target / 2)).sum()),
        )

    def rounded(self) -> dict[str, float | int]:
        """For a record."""
        return {name: float(f"{value:.4g}") if name != "modes" else value for name, value in asdict(self).items()}


def log_policy_of(model: nn.Module) -> Tensor:
    """log p_θ of all completions, float64 [256]."""
    return log_distribution(conditionals(model, torch.tensor(PROMPT), CONTENTS, LENGTH))
