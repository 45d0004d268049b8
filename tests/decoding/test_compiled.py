"""If these fail, the compiled steps of dual_cache differ from the plain ones, or are compiled again for every block or
call, or a failure to compile or to capture is silent or changes the tokens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dmpo import generate
from dmpo.decoding import compiled_step
from dmpo.decoding.generation import Generation
from dmpo.kernels.random_numbers import uniform
from dmpo.randomness import seed_change, uniforms, uniforms_of_change, with_seed_zero
from tests.tiny_models import tiny, tokens

OPTIONS: dict[str, Any] = {"decoder": "dual_cache", "gen_length": 12, "block_length": 4, "steps": 12}
CASES: list[dict[str, Any]] = [
    {},
    {"steps": 6, "temperature": 1.0, "remasking": "random", "seed": 7},
    {"temperature": 1.0, "early_stop": True, "eos_id": [2, 5, 7, 9]},
    {"threshold": 0.3, "temperature": 0.7, "early_stop": True, "eos_id": [2, 5, 7, 9]},
    {"factor": 1.0, "cfg_scale": 0.5, "temperature": 1.0},
    {"threshold": 0.3, "cfg_scale": 0.5, "temperature": 0.7, "early_stop": True, "eos_id": [2, 5, 7, 9]},
]


@pytest.fixture(autouse=True)
def _no_compiled_step_is_kept() -> Iterator[None]:
    compiled_step._compiled.cache_clear()
    torch._dynamo.reset()
    yield
    compiled_step._compiled.cache_clear()
    torch._dynamo.reset()


def dream(**changes: Any) -> Any:
    model: Any = tiny(**changes)
    model.prediction_shift = 1
    return model


def run(model: Any, **options: Any) -> Generation:
    """Two prompts, three completions each; one of the prompts is padded."""
    prompt = tokens(2, 6).repeat_interleave(3, 0)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1]] * 3 + [[1] * 6] * 3)
    return generate(model, prompt, attention_mask=mask, **OPTIONS | options)


def assert_same(found: Generation, wanted: Generation) -> None:
    for name in ("sequences", "order", "steps", "forwards"):
        a, b = getattr(found, name), getattr(wanted, name)
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b, name
    torch.testing.assert_close(found.log_probs, wanted.log_probs, rtol=1e-4, atol=1e-5)


def with_backend(monkeypatch: pytest.MonkeyPatch, backend: Callable[..., Any]) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "dmpo"]


@pytest.mark.parametrize("make", [tiny, dream], ids=["llada", "dream"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_step_of_fixed_shapes_is_the_plain_step(
    monkeypatch: pytest.MonkeyPatch, make: Any, case: dict[str, Any]
) -> None:
    """The function that torch compiles, uncompiled."""
    monkeypatch.setattr(compiled_step, "_compiled", lambda device: compiled_step.call_step)
    model = make(init_std=0.7)
    plain, compiled = run(model, **case), run(model, compiled=True, **case)
    assert_same(compiled, plain)
    if "early_stop" in case:
        assert (plain.steps < 12).any(), "no row ended early"


def test_dream_without_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first position is predicted at its own place, so the block has no left neighbour."""
    monkeypatch.setattr(compiled_step, "_compiled", lambda device: compiled_step.call_step)
    monkeypatch.setattr("dmpo.decoding.generation.COMPILED_WIDTHS", 1)
    model, prompt = dream(init_std=0.7), torch.zeros(2, 0, dtype=torch.int64)
    plain = generate(model, prompt, temperature=1.0, **OPTIONS)
    assert_same(generate(model, prompt, temperature=1.0, compiled=True, **OPTIONS), plain)


def test_one_graph_for_all_blocks_calls_and_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    with_backend(monkeypatch, backend)
    model, case = tiny(init_std=0.7), CASES[3]
    for seed in (0, 1 << 40):
        assert_same(run(model, compiled=True, seed=seed, **case), run(model, seed=seed, **case))
    assert len(graphs) == 1, "one compilation, and no graph break"
    # Other prompts of nearly the same length: the canvas has as many columns.
    prompt = tokens(6, 9, seed=4)
    options = OPTIONS | case | {"seed": 3}
    assert_same(generate(model, prompt, compiled=True, **options), generate(model, prompt, **options))
    assert len(graphs) == 1


def test_books_say_who_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows are in a step of fixed shape. The first step of a block has the rows that have not ended, and the very
    first one has a row of each prompt."""
    monkeypatch.setattr(compiled_step, "_compiled", lambda device: compiled_step.call_step)
    model, rows = tiny(init_std=0.7), []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    result = run(model, compiled=True, **CASES[2])
    firsts = [n for n, width in rows if width == 64]
    assert firsts[0] == 2
    assert firsts[1:] == sorted(firsts[1:], reverse=True)
    assert min(firsts[1:]) < 6, "no row ended before the last block"
    assert {(n, width) for n, width in rows if width < 64} == {(6, 4)}
    assert result.row_forwards == sum(n for n, _ in rows)
    assert result.forwards == len(rows)


def test_failed_compilation_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def backend(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler here")

    with_backend(monkeypatch, backend)
    model = tiny(init_std=0.7)
    with caplog.at_level(logging.WARNING, logger="dmpo"):
        assert_same(run(model, compiled=True, threshold=0.3), run(model, threshold=0.3))
    (said,) = messages(caplog)
    assert "dual_cache runs uncompiled" in said
    assert "no compiler here" in said


@pytest.mark.parametrize("case", CASES[2:4], ids=str)
def test_step_that_fails_after_it_has_written_is_not_applied_twice(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, case: dict[str, Any]
) -> None:
    def backend(graph: Any, inputs: Any) -> Any:
        def fail(*args: Any) -> Any:
            graph.forward(*args)
            raise RuntimeError("launch failed")

        return fail

    with_backend(monkeypatch, backend)
    model = tiny(init_std=0.7)
    plain = run(model, **case)
    for said in (1, 2):  # every call says it
        with caplog.at_level(logging.WARNING, logger="dmpo"):
            assert_same(run(model, compiled=True, **case), plain)
        assert len([message for message in messages(caplog) if "launch failed" in message]) == said


def test_too_many_shapes_are_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with_backend(monkeypatch, lambda graph, inputs: graph.forward)
    monkeypatch.setattr(compiled_step, "MOST_SHAPES", 2)
    model = tiny(init_std=0.7, num_layers=1)
    with caplog.at_level(logging.WARNING, logger="dmpo"):
        for rows in range(1, 4):
            prompt = tokens(rows, 6)
            assert_same(generate(model, prompt, compiled=True, **OPTIONS), generate(model, prompt, **OPTIONS))
    assert len(messages(caplog)) == 1
    assert "dual_cache runs uncompiled" in messages(caplog)[0]


def test_only_dual_cache_compiles() -> None:
    with pytest.raises(ValueError, match="compiled must be left at False, got True: it belongs to dual_cache"):
        generate(tiny(), tokens(1, 6), compiled=True, **OPTIONS | {"decoder": "prefix_cache"})


# ---------------------------------------------------------------------------------------------- CUDA graphs


class Graphs:
    """Stands in for CUDA graphs: what runs inside a capture leaves no trace, and a replay runs it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: str | None = None) -> None:
        self.error, self.replays = error, 0
        self.steps: list[compiled_step.CompiledStep] = []
        init = compiled_step.CompiledStep.__init__

        def on_a_gpu(step: Any, *args: Any) -> None:
            init(step, *args)
            step.captures = True
            self.steps.append(step)

        monkeypatch.setattr(compiled_step, "_compiled", lambda device: compiled_step.call_step)
        monkeypatch.setattr(compiled_step.CompiledStep, "__init__", on_a_gpu)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        monkeypatch.setattr(torch.cuda, "graph", lambda graph, capture_error_mode: self)

    def __enter__(self) -> None:
        step = self.steps[-1].step
        layers: Any = step.cache.layers
        written = (*step.written(), *(x for layer in layers for x in (layer.keys, layer.values)))
        self.before = [(tensor, tensor.clone()) for tensor in written]

    def __exit__(self, *error: Any) -> None:
        for tensor, value in self.before:
            tensor.copy_(value)
        if self.error:
            raise RuntimeError(self.error)

    def replay(self) -> None:
        step = self.steps[-1]
        self.replays += 1
        result = step.run()
        if result is not None:
            assert step.result is not None
            step.result.copy_(result)


@pytest.mark.parametrize("case", CASES[2:4], ids=str)
def test_second_step_is_captured_and_every_later_one_replayed(
    monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]
) -> None:
    model = tiny(init_std=0.7)
    plain = run(model, **case)
    graphs = Graphs(monkeypatch)
    assert_same(run(model, compiled=True, **case), plain)
    (step,) = graphs.steps
    assert step.calls == plain.forwards - 3, "three blocks have a first step each"
    assert graphs.replays == step.replays == step.calls - 1


def test_failed_capture_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny(init_std=0.7)
    plain = run(model, threshold=0.3)
    graphs = Graphs(monkeypatch, error="operation not permitted when stream is capturing")
    with caplog.at_level(logging.WARNING, logger="dmpo"):
        assert_same(run(model, compiled=True, threshold=0.3), plain)
    (said,) = messages(caplog)
    assert "dual_cache runs without a CUDA graph: operation not permitted" in said
    assert graphs.replays == 0


# ---------------------------------------------------------------------------------------------- random numbers


@given(st.integers(0, (1 << 63) - 1), st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=1, max_size=9))
def test_seed_on_the_device_gives_the_same_numbers(seed: int, ids: list[int]) -> None:
    row_ids, change = torch.tensor(ids), seed_change(seed, torch.device("cpu"))
    assert torch.equal(uniform(0, with_seed_zero(row_ids, change)), uniform(seed, row_ids))
    columns = torch.tensor([[0, 5, 2]]).expand(len(ids), -1)
    wanted = uniforms(seed, row_ids, 6).gather(1, columns)
    assert torch.equal(uniforms_of_change(change, row_ids, columns), wanted)
