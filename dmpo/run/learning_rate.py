"""The learning rate of a gradient step: a function of the step alone, so that a resumed run needs no state of it."""

from __future__ import annotations

import math

from ..config.run import RunConfig


def learning_rate(config: RunConfig, step: int) -> float:
    """The learning rate of a gradient step; steps count from 0.

    After the warm-up it is transformers' `get_scheduler(lr_scheduler_type)` after `step` calls of its `step`. In the
    warm-up it is one call ahead, so that the first gradient step has a rate above 0.
    """
    after_warmup, total = step - config.warmup_steps, config.max_steps - config.warmup_steps
    if after_warmup < 0:
        return config.learning_rate * ((step + 1) / config.warmup_steps)
    if config.lr_scheduler_type == "constant":
        return config.learning_rate
    done = min(1.0, after_warmup / max(1, total))
    share = 1.0 - done if config.lr_scheduler_type == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return config.learning_rate * share
