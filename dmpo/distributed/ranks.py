"""Communication between ranks: the rows of a round, values of these rows, and errors."""

from __future__ import annotations

import atexit
import logging
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
_LAUNCHED_AS = {  # the variables that `accelerate launch` sets, and the distributed type that must follow from them
    "ACCELERATE_USE_FSDP": DistributedType.FSDP,
    "ACCELERATE_USE_DEEPSPEED": DistributedType.DEEPSPEED,
}
_last_group: list[dist.ProcessGroup | None] = []
"""The process group of the last run. It stays referenced here, so that DistributedDataParallel's Reducer is not its
last owner. The Reducer would free the group with Python's lock held and wait for the threads of the group, which need
the lock to free their last tensors (https://github.com/pytorch/pytorch/issues/56297). Then a finished run hung now and
then."""


class RankError(ValueError):
    """Another rank failed. It is a ValueError, which the command line prints in one line."""


def make_accelerator(output_dir: str, trackers: list[str]) -> Accelerator:
    """Accelerate with the settings of the launch, but without its gradient accumulation: a step uses all its views.

    Ranks wait for each other for up to three hours, because the rollouts and rewards of one rank may take much longer
    than the rollouts and rewards of another.
    """
    logging.getLogger("DeepSpeed").addFilter(_is_not_of_the_choice)
    return Accelerator(
        log_with=trackers or None,
        project_dir=output_dir,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=WAIT)],
    )


def _is_not_of_the_choice(record: logging.LogRecord) -> bool:
    """False for DeepSpeed's lines on the device that it chose: every process prints them on stdout, DeepSpeed or not.

    Accelerate imports DeepSpeed wherever it is installed.
    """
    return record.module != "real_accelerator"


def check_launch(accelerator: Accelerator) -> None:
    """Raise ValueError if accelerate has silently set up another distributed type than the launch asked for."""
    if accelerator.num_processes == 1 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("launched on several ranks, but accelerate sees one; on CPUs set ACCELERATE_USE_CPU=true")
    for variable, launched_type in _LAUNCHED_AS.items():
        is_set = os.environ.get(variable, "false").lower() in ("true", "1")
        if is_set and accelerator.distributed_type != launched_type:
            raise ValueError(
                f"launched with {launched_type.value}, but accelerate runs {accelerator.distributed_type.value} on "
                f"{accelerator.device.type}, which does not shard the model; launch on GPUs, or on CPUs with the "
                "config of `dmpo config-file ddp`"
            )


def rank_rows(total: int, rank: int, world: int) -> slice:
    """The rows of a rank if `total` rows are split in order. The ranks' numbers of rows differ by at most one."""
    return slice(total * rank // world, total * (rank + 1) // world)


def gather_rows(accelerator: Accelerator, local: Tensor, total: int) -> Tensor:
    """The rows of all ranks, [total, ...], on every rank. `local` has the rows `rank_rows` of this rank. Exact."""
    if accelerator.num_processes == 1:
        return local
    rows = local.new_zeros(total, *local.shape[1:])
    rows[rank_rows(total, accelerator.process_index, accelerator.num_processes)] = local
    gathered: Tensor = accelerator.reduce(rows, "sum")  # exact: one rank adds its row, and the others add 0
    return gathered


def gather_named(accelerator: Accelerator, local: dict[str, Tensor], total: int) -> dict[str, Tensor]:
    """`gather_rows` of several numbers a row, [B] each by name, in one collective: float64 [total] by name."""
    columns = gather_rows(accelerator, torch.stack([values.double() for values in local.values()], -1), total)
    return dict(zip(local, columns.unbind(-1), strict=True))


def together(function: Callable[[], Value]) -> Value:
    """`function()` on every rank. If it fails on one rank, every rank raises, so that no rank waits for another.

    Raises:
        Exception: on a rank where `function` failed, its exception.
        RankError: on the other ranks. It names the first rank that failed and the error of that rank.
    """
    failure: Exception | None = None
    value: Value | None = None
    try:
        value = function()
    except Exception as error:
        failure = error
    text = None if failure is None else f"{type(failure).__name__}: {failure}"
    texts = gather_object([text])  # also a barrier
    if failure is not None:
        failure.on_every_rank = True  # type: ignore[attr-defined]
        raise failure
    for rank, error_text in enumerate(texts):
        if error_text is not None:
            raise RankError(f"rank {rank} failed: {error_text}")
    return value  # type: ignore[return-value]


def is_shared(error: Exception) -> bool:
    """Whether every rank raises this error, or a RankError for it. Then all ranks are at the same line."""
    return isinstance(error, RankError) or hasattr(error, "on_every_rank")


def from_main(accelerator: Accelerator, function: Callable[[], Value]) -> Value:
    """The value of `function()`, which only the main rank calls. Every rank gets the value or the error.

    The value must be one that pickle can send.
    """
    value = together(lambda: function() if accelerator.is_main_process else None)
    shared: Value = gather_object([value])[0]
    return shared


def summed(accelerator: Accelerator, *values: float | Tensor) -> list[float]:
    """The sum of each value over the ranks, in float64."""
    local = torch.tensor([float(value) for value in values], dtype=torch.float64, device=accelerator.device)
    sums: list[float] = accelerator.reduce(local, "sum").tolist()
    return sums


def summed_named(accelerator: Accelerator, values: dict[str, float | Tensor]) -> dict[str, float]:
    """Each value's sum over ranks, float64, by name."""
    return dict(zip(values, summed(accelerator, *values.values()), strict=True))


def largest(accelerator: Accelerator, number: int) -> int:
    """The largest of the ranks' numbers. All ranks call it together."""
    if accelerator.num_processes == 1:
        return number
    numbers: Tensor = accelerator.gather(torch.tensor([number], device=accelerator.device))
    return int(numbers.max())


def end_together(accelerator: Accelerator) -> None:
    """Close the trackers and the process group. A rank waits here until all ranks have arrived."""
    _arrive(accelerator)
    accelerator.end_training()


def end_run(accelerator: Accelerator) -> None:
    """Close the trackers. A rank waits here until all ranks have arrived.

    The process group stays until the process ends, so that a script may still evaluate, save and upload the model.
    """
    _arrive(accelerator)
    for tracker in accelerator.trackers:
        tracker.finish()
    accelerator.trackers = []
    if accelerator.num_processes > 1:
        atexit.register(accelerator.state.destroy_process_group)


def _arrive(accelerator: Accelerator) -> None:
    if accelerator.num_processes > 1:
        accelerator.wait_for_everyone()
        _last_group[:] = [dist.group.WORLD]
