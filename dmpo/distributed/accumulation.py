"""The gradient of one step from several passes: every rank makes the same number of them, and the last one syncs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .ranks import largest


def accumulate(
    accelerator: Accelerator,
    model: nn.Module,
    passes: int,
    loss_of: Callable[[int, bool], tuple[Tensor, Tensor]],
    *,
    reports: int = 0,
) -> Tensor:
    """Add the gradient of the sum of losses over the passes of all ranks to the parameters, as DDP averages ranks.

    Args:
        model: as accelerate wrapped it.
        passes: of this rank; of one rank at least one.
        loss_of: (number of a pass, whether it counts) → its loss, a scalar with gradient, and its reports [reports]. A
            rank with fewer passes than another is asked for pass 0 again, and it counts nothing: the smallest pass will
            do.
        reports: how many numbers a pass reports.

    Returns:
        float64 [1 + reports], this rank's sums of losses and reports.
    """
    world, most = accelerator.num_processes, largest(accelerator, passes)
    sums = torch.zeros(1 + reports, dtype=torch.float64, device=accelerator.device)
    for number in range(most):
        live = number < passes
        accelerator.sync_gradients = number + 1 == most  # for DeepSpeed, whose backward then also steps
        with nullcontext() if accelerator.sync_gradients else accelerator.no_sync(model):
            loss, of_pass = loss_of(number if live else 0, live)
            accelerator.backward(loss * (live * world))  # ranks are averaged
        sums += torch.cat([loss.detach().view(1), of_pass]) * live
    return sums
