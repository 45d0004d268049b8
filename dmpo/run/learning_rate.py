"""The learning rate of a gradient step: a function of the step alone, so that a resumed run needs no state of it."""

from __future__ import annotations

from ..config.keys import DMPOConfig


def learning_rate(config: DMPOConfig, step: int) -> float:
    """The learning rate of a gradient step (steps count from 0): it rises over `warmup_steps`, then it is constant."""
    return config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
