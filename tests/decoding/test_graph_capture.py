"""If these fail, a compiled dual_cache step cannot be one CUDA graph: it is several graphs, or its memory moves, or it
is compiled anew for each block or call. Or the compiler's code draws other tokens."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch._inductor import config as inductor_config
from torch._inductor import output_code

from dmpo import generate
from dmpo.decoding import cache, compiled_step, passes
from dmpo.decoding.generation import Generation
from tests.tiny_models import tiny, tokens

# One compilation for all: guidance, padding, temperature, a threshold, early stop.
OPTIONS: dict[str, Any] = {
    "decoder": "dual_cache",
    "gen_length": 12,
    "block_length": 4,
    "steps": 12,
    "threshold": 0.3,
    "temperature": 0.7,
    "cfg_scale": 0.5,
    "early_stop": True,
    "eos_id": [2, 5, 7, 9],
}
LAYERS = 1


@dataclass
class Report:
    """pairs: of a plain and a compiled run, two seeds. graphs: of each compilation, by name. places: addresses of all
    that a step writes and reads, by call of `generate`. launched: calls of compiled code, and steps."""

    pairs: list[tuple[Generation, Generation]] = field(default_factory=list)
    graphs: list[dict[str, int]] = field(default_factory=list)
    places: dict[int, set[tuple[int, ...]]] = field(default_factory=dict)
    launched: list[str] = field(default_factory=list)
    caches: list[weakref.ref[Any]] = field(default_factory=list)


def clear() -> None:
    compiled_step._compiled.cache_clear()
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def report() -> Iterator[Report]:
    """No compiled code of this process, and none of an earlier one on disk: its key does not know what is static."""
    found, loaded, call = Report(), output_code.CompiledFxGraph.post_compile, compiled_step.CompiledStep._compiled
    run = output_code.CompiledFxGraph.__call__

    def post_compile(self: Any, inputs: Any, constants: Any, options: Any) -> Any:
        static, mutated = set(options.get("static_input_idxs", ())), set(self.mutated_input_idxs)
        found.graphs.append(
            {
                "mutated": len(mutated),
                "mutated and not static": len(mutated - static),
                "not static": len(inputs) - len(static),
            }
        )
        return loaded(self, inputs, constants, options)

    def called(self: compiled_step.CompiledStep) -> Any:
        step = self.step
        layers: Any = step.cache.layers
        kept = [x for layer in layers for x in (layer.keys, layer.values)]
        places = tuple(x.data_ptr() for x in (*step.written(), *step._read(), *kept))
        found.places.setdefault(len(found.pairs), set()).add(places)
        found.launched.append("step")
        return call(self)

    def launched(self: Any, inputs: Any) -> Any:
        found.launched.append("graph")
        return run(self, inputs)

    class Seen(cache.BlockCache):
        def __init__(self, layers: int, **more: Any) -> None:
            super().__init__(layers, **more)
            found.caches.append(weakref.ref(self))

    with pytest.MonkeyPatch.context() as patch, inductor_config.patch(force_disable_caches=True):
        clear()
        patch.setattr(output_code.CompiledFxGraph, "post_compile", post_compile)
        patch.setattr(output_code.CompiledFxGraph, "__call__", launched)
        patch.setattr(compiled_step.CompiledStep, "_compiled", called)
        patch.setattr(passes, "BlockCache", Seen)
        model, prompt = tiny(init_std=0.7, num_layers=LAYERS), tokens(2, 6).repeat_interleave(2, 0)
        mask = torch.tensor([[0, 0, 1, 1, 1, 1]] * 2 + [[1] * 6] * 2)
        for seed in (0, 5):
            plain, compiled = (
                generate(model, prompt, attention_mask=mask, seed=seed, compiled=compiled, **OPTIONS)
                for compiled in (False, True)
            )
            found.pairs.append((plain, compiled))
        yield found
        clear()


def test_compiled_code_draws_the_same_tokens(report: Report) -> None:
    for plain, compiled in report.pairs:
        for name in ("sequences", "order", "steps"):
            assert torch.equal(getattr(plain, name), getattr(compiled, name)), name
        torch.testing.assert_close(plain.log_probs, compiled.log_probs, rtol=1e-4, atol=1e-5)
    first, second = (compiled.sequences for _, compiled in report.pairs)
    assert not torch.equal(first, second), "the seed is part of the compiled code"


def test_one_compilation_whose_memory_all_stays(report: Report) -> None:
    """Keys and values; tokens, steps, log-probabilities, order and the step's number are written, and nothing else."""
    assert report.graphs == [{"mutated": 2 * LAYERS + 5, "mutated and not static": 0, "not static": 0}]


def test_addresses_are_the_same_at_every_step_of_every_block(report: Report) -> None:
    assert [len(places) for places in report.places.values()] == [1, 1]


def test_a_step_is_one_call_of_compiled_code(report: Report) -> None:
    steps = sum(compiled.forwards - 3 for _, compiled in report.pairs)  # three blocks have a first step each
    assert report.launched == ["step", "graph"] * steps


def test_keys_and_values_do_not_outlive_their_call(report: Report) -> None:
    gc.collect()
    assert [found() for found in report.caches] == [None] * len(report.caches)
