"""Functions on several ranks of this machine, over gloo on CPUs. A server imports torch once; ranks are forks of it."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["dmpo.trainer", "dmpo.sft", "tests.small_runs"])


Sharding = Literal["none", "fsdp", "zero2", "zero3"]


@dataclass(frozen=True)
class Rank:
    """What became of one rank: its result or its error, and what it printed."""

    result: Any
    error: str | None
    printed: str


def on_ranks(
    world: int,
    function: Callable[..., Any],
    *arguments: Any,
    folder: Path,
    seconds: float = 240.0,
    sharding: Sharding = "none",
) -> list[Rank]:
    """`function(*arguments)` on each of `world` ranks. Fails, naming them, if ranks are left waiting after `seconds`.

    sharding: accelerate shards models by FSDP2 or DeepSpeed, which it otherwise does on GPUs only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    ranks = [
        _CONTEXT.Process(target=_rank, args=(rank, world, port, folder, seconds, sharding, function, arguments))
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    deadline = time.monotonic() + seconds
    for process in ranks:
        process.join(max(0.0, deadline - time.monotonic()))
    waiting = [rank for rank, process in enumerate(ranks) if process.is_alive()]
    for process in ranks:
        process.kill()
    if waiting:
        files = {rank: folder / f"{rank}.txt" for rank in range(world)}  # of those that came so far
        left = "\n".join(f"rank {rank} printed: {x.read_text()}" for rank, x in files.items() if x.exists())
        raise AssertionError(f"ranks {waiting} still ran after {seconds} s\n{left}")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


def results(ranks: list[Rank]) -> list[Any]:
    """Of ranks of which none may have failed."""
    for number, rank in enumerate(ranks):
        assert rank.error is None, f"rank {number}: {rank.error}\n{rank.printed}"
    return [rank.result for rank in ranks]


def _rank(
    rank: int,
    world: int,
    port: int,
    folder: Path,
    seconds: float,
    sharding: Sharding,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "localhost",
    }
    if world > 1:
        numbers = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": world,
            "LOCAL_WORLD_SIZE": world,
            "MASTER_PORT": port,
        }
        os.environ |= {name: str(number) for name, number in numbers.items()}
    if sharding == "fsdp":
        _fsdp_on_cpus()
    elif sharding != "none":
        _deepspeed_on_cpus(sharding[-1])
    result, error, output = None, None, folder / f"{rank}.txt"
    with output.open("w", buffering=1) as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        faulthandler.dump_traceback_later(0.9 * seconds, file=file)  # a rank that hangs says where
        try:
            result = function(*arguments)
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
            traceback.print_exc()
        faulthandler.cancel_dump_traceback_later()
    torch.save(Rank(result, error, output.read_text()), folder / f"{rank}.pt")
    sys.stdout.flush()
    os._exit(0)  # an orderly end of a process group waits for ranks that have failed


def _fsdp_on_cpus() -> None:
    """accelerate's own FSDP2 path, which torch 2.13 runs on a CPU mesh and accelerate leaves out there."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    os.environ |= {"FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
    plain_init = AcceleratorState.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        plain_init(self, *args, **kwargs)
        if "fsdp_plugin" not in self._shared_state:
            self.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2, reshard_after_forward=True)
            for state in (AcceleratorState, PartialState):
                state._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = init


def _deepspeed_on_cpus(stage: str) -> None:
    """DeepSpeed runs on CPUs over gloo; accelerate starts it there and then counts one rank."""
    import torch.distributed as dist
    from accelerate.state import PartialState

    del os.environ["ACCELERATE_USE_CPU"]
    os.environ |= {"DS_ACCELERATOR": "cpu", "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_MIXED_PRECISION": "bf16"}
    os.environ["ACCELERATE_DEEPSPEED_ZERO_STAGE"] = stage
    # Otherwise DeepSpeed compiles an operator for inference into the cache of the user. Nothing here calls it.
    backend: Any = importlib.import_module("deepspeed.comm.torch")  # deepspeed.comm also names PyTorch itself torch
    backend.build_shm_op = lambda: None
    plain_init = PartialState.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        plain_init(self, *args, **kwargs)
        self.num_processes, self.process_index = dist.get_world_size(), dist.get_rank()
        self.local_process_index, self.backend = self.process_index, "gloo"

    PartialState.__init__ = init
