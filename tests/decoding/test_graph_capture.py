"""If this fails, a compiled dual_cache step gets no CUDA graph: Inductor makes none of a graph that writes into inputs
whose place in memory it was not told to be fixed; or every block, or every call, is compiled anew."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._inductor import config as inductor_config
from torch._inductor import output_code

from dmpo import generate
from dmpo.decoding import cache, passes
from tests.tiny_models import tiny, tokens

OPTIONS: dict[str, Any] = {"decoder": "dual_cache", "gen_length": 12, "block_length": 4, "steps": 12}


@pytest.fixture(autouse=True)
def _no_compiled_step_is_kept() -> Iterator[None]:
    """Not in this process, and none of an earlier one on disk: its key does not know which inputs are static."""
    passes._compiled_hidden_states.cache_clear()
    torch._dynamo.reset()
    with inductor_config.patch(force_disable_caches=True):
        yield
    passes._compiled_hidden_states.cache_clear()
    torch._dynamo.reset()


def test_all_that_a_compiled_step_writes_into_stays_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[tuple[int, int]] = []  # of each compilation: mutated inputs, and how many of them are not static
    places: set[tuple[int, ...]] = set()  # of keys and values, at each step on a block
    caches: list[weakref.ref[Any]] = []
    loaded = output_code.CompiledFxGraph.post_compile

    def report(self: Any, inputs: Any, constants: Any, options: Any) -> Any:
        static = set(options.get("static_input_idxs", ()))
        mutated = list(self.mutated_input_idxs)
        graphs.append((len(mutated), len([i for i in mutated if i not in static])))
        return loaded(self, inputs, constants, options)

    class Seen(cache.BlockCache):
        def __init__(self, layers: int, **more: Any) -> None:
            super().__init__(layers, **more)
            caches.append(weakref.ref(self))

    step = passes._CompiledCall.__call__

    def called(self: Any, *arguments: Any, **kwargs: Any) -> Any:
        layers = kwargs["past_key_values"].layers
        places.add(tuple(x.data_ptr() for layer in layers for x in (layer.keys, layer.values)))
        return step(self, *arguments, **kwargs)

    monkeypatch.setattr(output_code.CompiledFxGraph, "post_compile", report)
    monkeypatch.setattr(passes, "BlockCache", Seen)
    monkeypatch.setattr(passes._CompiledCall, "__call__", called)
    model, prompt = tiny(init_std=0.7), tokens(3, 6)
    compiled = generate(model, prompt, compiled=True, **OPTIONS)
    assert len(places) == 1, "one place in memory for the keys and values of all blocks"
    assert torch.equal(compiled.sequences, generate(model, prompt, **OPTIONS).sequences)
    layers = model.config.num_hidden_layers
    assert graphs == [(2 * layers, 0)], "one compilation, keys and values written in place, all of them static"
    generate(model, tokens(3, 6), compiled=True, **OPTIONS)
    assert len(graphs) == 1, "another call compiles nothing"
    gc.collect()
    assert [found() for found in caches] == [None] * len(caches), "keys and values outlive their call"
