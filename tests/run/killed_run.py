"""A small training run in a process of its own, for tests that kill it, signal it, or run several ranks of it."""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from dmpo import DMPOTrainer
from dmpo.pretrain import character_tokenizer
from tests.small_runs import CountOnes, settings
from tests.tiny_models import tiny

# What a run writes and decides, not what it computes: that lies between two lines of the trainer.
_NAMES = (
    "trainer",
    *(f"run.{name}" for name in ("saving", "checkpoint", "folder")),
    *(f"storage.{name}" for name in ("whole_files", "json_lines", "lock", "background")),
)
FILES = {import_module(f"dmpo.{name}").__file__ for name in _NAMES}
OPTIONS: dict[str, Any] = {
    "lora_r": 2,
    "lora_dropout": 0.1,
    "max_steps": 8,
    "save_steps": 2,
    "eval_steps": 4,
    "buffer_rounds": 2,
    "reference_refresh_steps": 3,
    "rollout_batch_size": 16,
    "micro_batch_size": 16,
    "resume": True,
}
Reward = Callable[..., list[float]]


def small_trainer(folder: Path, reward: Reward | None = None, **changes: Any) -> DMPOTrainer:
    model = tiny(vocab_size=7, mask_id=1, eos_id=0, max_length=32, num_layers=1)
    config = settings(folder, **(OPTIONS | changes))
    return DMPOTrainer(config, model=model, tokenizer=character_tokenizer(), task=CountOnes(), reward=reward)


def run(
    folder: Path, kill_at: int, count: Any, reward: Reward | None, ranks: tuple[int, int, int], changes: Any
) -> None:
    """Train; die at the `kill_at`-th line event in FILES (0: never). `count.value` tells how many there were."""
    seen = 0

    def on_line(frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        nonlocal seen
        seen += event == "line"
        if seen == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return on_line

    def on_call(frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        return on_line if frame.f_code.co_filename in FILES else None

    rank, world, port = ranks
    if world > 1:
        faulthandler.dump_traceback_later(100)  # a rank that hangs says where
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        os.environ.update({name: str(value) for name, value in place.items()})
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true")
    torch.set_num_threads(1)
    os.close(1)  # what a person would see
    os.open(os.devnull, os.O_WRONLY)
    sys.modules["dmpo.trainer"].plot_run = lambda *arguments: None  # type: ignore[attr-defined]
    if count is None:
        small_trainer(folder, reward, **changes).train()
        return
    threading.settrace(on_call)  # and in the thread that writes checkpoints
    sys.settrace(on_call)
    small_trainer(folder, reward, **changes).train()
    sys.settrace(None)
    count.value = seen


def start(
    folder: Path,
    kill_at: int = 0,
    *,
    traced: bool = False,
    reward: Reward | None = None,
    ranks: tuple[int, int, int] = (0, 1, 0),
    **changes: Any,
) -> tuple[BaseProcess, Any]:
    """`run` in a process of its own, forked from one that has imported everything; and its count, if traced.

    ranks: rank, number of ranks, port. reward: a function at the top of a module.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.run.killed_run"])
    count = context.Value("q", 0) if traced or kill_at else None
    process = context.Process(target=run, args=(folder, kill_at, count, reward, ranks, changes))
    process.start()
    return process, count


def start_ranks(folder: Path, world: int, **options: Any) -> list[BaseProcess]:
    """One process a rank, over gloo."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [start(folder, ranks=(rank, world, port), **options)[0] for rank in range(world)]
