"""The optimiser of a run."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from ..config.keys import DMPOConfig


def make_optimizer(config: DMPOConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW on the trained parameters. The loop sets the learning rate before each step."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    betas = (config.adam_beta1, config.adam_beta2)
    return torch.optim.AdamW(trained, config.learning_rate, betas, weight_decay=config.weight_decay)
