"""What ranks share: rows of a round, values of those rows, and errors."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType, GradientAccumulationPlugin, InitProcessGroupKwargs, gather_object
from torch import Tensor

Value = TypeVar("Value")
WAIT = timedelta(hours=3)
_LAUNCHED_AS = {  # what `accelerate launch` sets, and what must come of it
    "ACCELERATE_USE_FSDP": DistributedType.FSDP,
    "ACCELERATE_USE_DEEPSPEED": DistributedType.DEEPSPEED,
}
_left: list[dist.ProcessGroup | None] = []
"""The group of the last run that ended. DistributedDataParallel's Reducer must not be its last owner: that frees it
with Python's lock held, waiting for the group's threads, which need the lock to drop the last tensors they were given
(https://github.com/pytorch/pytorch/issues/56297). Now and then a run that had done all its work never ended."""


class RankError(ValueError):
    """What another rank failed with: a ValueError, which the command line tells in one line."""


def make_accelerator(output_dir: str, trackers: list[str]) -> Accelerator:
    """Accelerate as launched, save for gradient accumulation: a step here is one pass over all of its views.

    Ranks wait for each other for hours, as rollouts and rewards of one may take much longer than those of another.
    """
    return Accelerator(
        log_with=trackers or None,
        project_dir=output_dir,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=WAIT)],
    )


def check_launch(accelerator: Accelerator) -> None:
    """Raise ValueError where accelerate has silently set up something else than what was launched."""
    if accelerator.num_processes == 1 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("launched on several ranks, but accelerate sees one; on CPUs set ACCELERATE_USE_CPU=true")
    for variable, wanted in _LAUNCHED_AS.items():
        if os.environ.get(variable, "false").lower() in ("true", "1") and accelerator.distributed_type != wanted:
            raise ValueError(
                f"launched with {wanted.value}, but accelerate runs {accelerator.distributed_type.value} on "
                f"{accelerator.device.type}, which does not shard the model; launch on GPUs, or on CPUs with the "
                "config of `dmpo config-file ddp`"
            )


def rank_rows(total: int, rank: int, world: int) -> slice:
    """The rows of a rank when `total` are split in order; shares differ by one row at most."""
    return slice(total * rank // world, total * (rank + 1) // world)


def gather_rows(accelerator: Accelerator, local: Tensor, total: int) -> Tensor:
    """The rows of all ranks, [total, ...], on every rank; `local` holds those of `rank_rows`. Exact."""
    if accelerator.num_processes == 1:
        return local
    rows = local.new_zeros(total, *local.shape[1:])
    rows[rank_rows(total, accelerator.process_index, accelerator.num_processes)] = local
    gathered: Tensor = accelerator.reduce(rows, "sum")  # to each row one rank adds its value and the others 0
    return gathered


def gather_named(accelerator: Accelerator, local: dict[str, Tensor], total: int) -> dict[str, Tensor]:
    """`gather_rows` of several numbers a row, [B] each by name, in one collective: float64 [total] by name."""
    columns = gather_rows(accelerator, torch.stack([values.double() for values in local.values()], -1), total)
    return dict(zip(local, columns.unbind(-1), strict=True))


def together(function: Callable[[], Value]) -> Value:
    """`function()`, or an error on every rank where it fails on one: none is left waiting for it.

    Raises:
        Exception: on the ranks that failed, their own.
        RankError: on the others, naming the first that failed and its error.
    """
    failure: Exception | None = None
    value: Value | None = None
    try:
        value = function()
    except Exception as error:
        failure = error
    text = None if failure is None else f"{type(failure).__name__}: {failure}"
    texts = gather_object([text])  # a barrier: all ranks are here
    if failure is not None:
        failure.on_every_rank = True  # type: ignore[attr-defined]
        raise failure
    for rank, other in enumerate(texts):
        if other is not None:
            raise RankError(f"rank {rank} failed: {other}")
    return value  # type: ignore[return-value]


def is_shared(error: Exception) -> bool:
    """Whether every rank has this error, or has been told of it: all of them are at the same place of the program."""
    return isinstance(error, RankError) or hasattr(error, "on_every_rank")


def from_main(accelerator: Accelerator, function: Callable[[], Value]) -> Value:
    """`function()` of the main rank alone, as a value or as an error on every rank; the value can be pickled."""
    value = together(lambda: function() if accelerator.is_main_process else None)
    shared: Value = gather_object([value])[0]
    return shared


def summed(accelerator: Accelerator, *values: float | Tensor) -> list[float]:
    """Each value's sum over ranks, float64."""
    local = torch.tensor([float(value) for value in values], dtype=torch.float64, device=accelerator.device)
    sums: list[float] = accelerator.reduce(local, "sum").tolist()
    return sums


def summed_named(accelerator: Accelerator, values: dict[str, float | Tensor]) -> dict[str, float]:
    """Each value's sum over ranks, float64, by name."""
    return dict(zip(values, summed(accelerator, *values.values()), strict=True))


def end_together(accelerator: Accelerator) -> None:
    """Trackers and the process group are closed; no rank leaves while another still needs it."""
    if accelerator.num_processes > 1:
        accelerator.wait_for_everyone()
        _left[:] = [dist.group.WORLD]
    accelerator.end_training()
