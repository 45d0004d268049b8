"""A `CachedStep` compiled by torch, and on a GPU captured as one CUDA graph that every later step replays."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from .cached_step import CachedStep

log = logging.getLogger("dmpo")

MOST_SHAPES = 64  # compiled in one process, of all models and options together; torch's own limit is 8


class CompiledStep:
    """The cached steps of one `generate`. The first call compiles, or finds what an earlier `generate` compiled.

    On a GPU the second call captures a CUDA graph, and the steps from there on are one launch each. torch's own graphs
    (mode "reduce-overhead") are not used: it would keep the graph of every `generate` for as long as the process runs.

    If torch cannot compile, or cannot capture, a log line says so, and the steps go on without it: their first call
    leaves no trace where it fails, and a capture runs nothing. `replays` counts the steps that were a graph.
    """

    def __init__(self, step: CachedStep) -> None:
        self.step = step
        self.run: Callable[[], Tensor | None] = partial(_compiled(step.everyone.device.type), step)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.captures = step.everyone.device.type == "cuda"
        self.result: Tensor | None = None  # of a step that is a graph
        self.begin_block = step.begin_block
        self.rows = len(step.everyone) * (2 if step.canvas.cfg_scale else 1)  # of a model call
        self.calls = self.replays = 0

    def __call__(self) -> Tensor | None:
        """One step; as `CachedStep`. The next step overwrites the result."""
        self.step.canvas.count(self.rows, len(self.step.positions))
        self.calls += 1
        if self.calls == 1:
            return self._first()
        if self.graph is None and self.captures:
            self._capture()
        if self.graph is None:
            return self._compiled()
        self.graph.replay()
        self.replays += 1
        return self.result

    def _first(self) -> Tensor | None:
        before = [tensor.clone() for tensor in self.step.written()]
        try:
            return self._compiled()
        except _compile_errors() as error:
            log.warning("dual_cache runs uncompiled: %s", _shortened(error))
        for tensor, value in zip(self.step.written(), before, strict=True):
            tensor.copy_(value)
        self.run = self.step
        return self.run()

    def _compiled(self) -> Tensor | None:
        # Else torch stops compiling without a word.
        with torch._dynamo.config.patch(recompile_limit=MOST_SHAPES, fail_on_recompile_limit_hit=True):
            return self.run()

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may use the device
                self.result = self._compiled()
            self.graph = graph
        except RuntimeError as error:
            self.captures = False
            log.warning("dual_cache runs without a CUDA graph: %s", _shortened(error))


def call_step(step: CachedStep) -> Tensor | None:
    """What torch compiles: one function for all models, shapes and options."""
    return step()


@cache
def _compiled(device: str) -> Callable[[CachedStep], Tensor | None]:
    """One for each type of device, so that a later `generate` finds what an earlier one compiled."""
    compiled: Callable[..., Any] = torch.compile(call_step, dynamic=False, fullgraph=True)
    return compiled


def _compile_errors() -> tuple[type[Exception], ...]:
    """The errors that compiling or running the compiled code may raise; imported late, because that takes seconds."""
    errors = torch._dynamo.exc
    return (errors.TorchDynamoException, errors.FailOnRecompileLimitHit, AssertionError, IndexError, RuntimeError)


def _shortened(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
