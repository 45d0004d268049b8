"""The optimiser of a run: PyTorch's AdamW, or bitsandbytes' with both moments in 8 bits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..config.run import RunConfig


def check_optimizer(config: RunConfig, device: torch.device) -> None:
    """Raise ValueError if `optim` needs bitsandbytes and it is not installed, or does not support the device."""
    if config.optim != "adamw_8bit":
        return
    try:
        import bitsandbytes
    except ImportError as error:
        raise ValueError(
            f"optim adamw_8bit needs bitsandbytes ({error}); pip install 'dmpo[quant]', or set optim=adamw"
        ) from None
    if device.type not in (supported := bitsandbytes.supported_torch_devices):
        raise ValueError(
            f"optim adamw_8bit: bitsandbytes needs a device of type {', '.join(sorted(supported))}, got {device.type}"
        )


def make_optimizer(config: RunConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW on the trained parameters. The loop sets the learning rate before each step."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    settings: Any = {
        "lr": config.learning_rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "weight_decay": config.weight_decay,
    }
    if config.optim == "adamw_8bit":
        from bitsandbytes.optim import AdamW8bit

        optimizer: torch.optim.Optimizer = AdamW8bit(trained, **settings)
        return optimizer
    return torch.optim.AdamW(trained, **settings)
