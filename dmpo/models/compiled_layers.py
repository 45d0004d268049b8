"""Decoder layers that torch.compile has fused: one compilation serves all layers of a model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from transformers.cache_utils import Cache

from .masked_lm import unwrap

log = logging.getLogger("dmpo")

Backend = Callable[[fx.GraphModule, Sequence[Any]], Callable[..., Any]]

GRAPHS = 64
"""So many graphs of a layer may be compiled in a process. A run has about ten, see docs/speed.md."""


def compile_layers(model: nn.Module, backend: Backend | None = None) -> None:
    """Compile the forward of all decoder layers but the last, in place. The first passes compile; layers share graphs.

    A graph serves all batch sizes above 1 and all lengths. There is one for each way in which a layer is called: with a
    gradient or without, with a mask or without, with stored keys or without, with adapters or without. Modules,
    parameters and their names stay as they are. Hooks of a layer run outside its graph, so FSDP2 gathers weights before
    it. The last layer stays eager: it runs on the rows that the head reads, and would double the number of graphs.

    If a compilation fails, or more than `GRAPHS` are wanted, one log line says why, and all layers run uncompiled from
    that call on. In compiled code dropout draws other masks than in eager code, from the same generator.

    Args:
        model: from `load_model`, wrapped or not.
        backend: what compiles a graph; None is `inductor`.
    """
    settings: Any = torch._dynamo.config  # of the process; no argument of torch 2.11's `compile` stands for them
    settings.recompile_limit = max(settings.recompile_limit, GRAPHS)
    settings.specialize_float = True  # else each graph is traced twice, the first time with the norms' epsilon unknown
    settings.optimize_ddp = False  # else a graph is split where a bucket of gradients ends
    shapes: Any = torch.fx.experimental._config
    shapes.use_duck_shape = False  # else sizes that are equal by chance have a graph of their own
    shared = _Compilation(backend or inductor)
    layers: Any = unwrap(model).model.layers
    for index, layer in enumerate(layers[:-1]):
        layer.forward = _CompiledForward(layer, index, shared)


def inductor(graph: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
    """PyTorch's code generator. It compiles the backward with the forward, so that the forward shows every failure."""
    from torch._inductor.compile_fx import compile_fx  # takes seconds

    with torch._functorch.config.patch(force_non_lazy_backward_lowering=True):
        compiled: Any = compile_fx(graph, list(inputs))
    run: Callable[..., Any] = compiled
    return run


class _Compilation:
    """run: a layer's forward, compiled, for all layers of a model; None once a compilation has failed."""

    def __init__(self, backend: Backend) -> None:
        self.run: Callable[..., Tensor] | None = torch.compile(_forward, backend=backend, fullgraph=True, dynamic=True)


class _CompiledForward:
    """The forward of one layer. As an attribute of the layer, it is what the layer's hooks run around."""

    def __init__(self, layer: nn.Module, index: int, shared: _Compilation) -> None:
        self.layer, self.index, self.shared = layer, index, shared

    def __call__(self, hidden: Tensor, *, head_rows: Any = None, past_key_values: Any = None, **kwargs: Any) -> Tensor:
        """head_rows is for the last layer alone."""
        shared, known = self.shared, past_key_values is None or _has_layer(past_key_values, self.index)
        if shared.run is not None and known and not torch.compiler.is_compiling():
            try:
                cache = None if past_key_values is None else _LayerCache(past_key_values.layers[self.index])
                return shared.run(self.layer, hidden, past_key_values=cache, **kwargs)
            except _compile_errors() as error:
                shared.run = None
                log.warning("decoder layers run uncompiled: %s", _reason(error))
        return _forward(self.layer, hidden, past_key_values=past_key_values, **kwargs)


class _LayerCache:
    """One layer of a cache in place of the cache: with the number of a layer, each layer would be compiled anew."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        updated: tuple[Tensor, Tensor] = self.layer.update(keys, values)
        return updated


def _has_layer(cache: Any, index: int) -> bool:
    """Whether a cache of transformers has this layer already and does nothing but update it."""
    return isinstance(cache, Cache) and not cache.offloading and index < len(cache.layers)


def _forward(layer: nn.Module, hidden: Tensor, **kwargs: Any) -> Tensor:
    result: Tensor = type(layer).forward(layer, hidden, **kwargs)
    return result


def _reason(error: Exception) -> str:
    if isinstance(error, torch._dynamo.exc.FailOnRecompileLimitHit):
        return f"they were called in more than {torch._dynamo.config.recompile_limit} ways, each of which needs a graph"
    return " ".join(str(error).split())[:300]


def _compile_errors() -> tuple[type[Exception], ...]:
    """The errors of a compilation; looked up late, because the import takes seconds. torch wraps two kinds not."""
    errors = torch._dynamo.exc
    return (errors.TorchDynamoException, errors.FailOnRecompileLimitHit, AssertionError, IndexError)
