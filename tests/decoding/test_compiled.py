"""If these fail, the compiled dual-cache step differs from the plain one, or is compiled again for every block."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch

from dmpo import generate
from dmpo.decoding import passes
from tests.tiny_models import tiny, tokens

OPTIONS: dict[str, Any] = {"decoder": "dual_cache", "gen_length": 12, "block_length": 4, "steps": 12, "threshold": 0.3}


@pytest.fixture(autouse=True)
def _no_compiled_step_is_kept() -> Iterator[None]:
    passes._compiled_hidden_states.cache_clear()
    torch._dynamo.reset()
    yield
    passes._compiled_hidden_states.cache_clear()
    torch._dynamo.reset()


@pytest.mark.parametrize("guidance", [0.0, 0.5])
def test_compiled_step_is_the_plain_step(monkeypatch: pytest.MonkeyPatch, guidance: float) -> None:
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend, fullgraph=True))
    model, options = tiny(init_std=0.7), OPTIONS | {"cfg_scale": guidance}
    prompt = torch.cat([torch.full((3, 2), 2), tokens(3, 6)], 1)
    mask = torch.tensor([[0, 0] + [1] * 6] * 3)
    plain = generate(model, prompt, attention_mask=mask, **options)
    compiled = generate(model, prompt, attention_mask=mask, compiled=True, **options)
    assert torch.equal(plain.sequences, compiled.sequences)
    torch.testing.assert_close(plain.log_probs, compiled.log_probs, rtol=1e-4, atol=1e-5)
    assert plain.forwards == compiled.forwards
    assert len(graphs) == 1, "one shape, one compilation"
    # Rows stay for the sake of that shape, and the books say so.
    assert compiled.row_forwards == compiled.forwards * 3 * (2 if guidance else 1) > plain.row_forwards


def test_failed_compilation_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def backend(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    model = tiny(init_std=0.7)
    with caplog.at_level(logging.WARNING, logger="dmpo"):
        compiled = generate(model, tokens(3, 6), compiled=True, **OPTIONS)
    assert torch.equal(compiled.sequences, generate(model, tokens(3, 6), **OPTIONS).sequences)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "dual_cache runs uncompiled" in said[0]
    assert "no compiler here" in said[0]


def test_compiled_step_that_fails_when_it_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def backend(graph: Any, inputs: Any) -> Any:
        def fail(*args: Any) -> Any:
            raise RuntimeError("capture failed")

        return fail

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    model = tiny(init_std=0.7)
    plain = generate(model, tokens(3, 6), **OPTIONS).sequences
    for said in (1, 2):  # every call says it
        with caplog.at_level(logging.WARNING, logger="dmpo"):
            assert torch.equal(generate(model, tokens(3, 6), compiled=True, **OPTIONS).sequences, plain)
        assert len([r for r in caplog.records if "capture failed" in r.getMessage()]) == said


def test_too_many_shapes_are_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=lambda graph, inputs: graph.forward))
    model = tiny(init_std=0.7)
    # torch's own patch: monkeypatch cannot restore an option of torch's config, it would hide it from every later test
    with torch._dynamo.config.patch(recompile_limit=2), caplog.at_level(logging.WARNING, logger="dmpo"):
        for width in range(4, 8):
            prompt = tokens(2, width)
            compiled = generate(model, prompt, compiled=True, **OPTIONS).sequences
            assert torch.equal(compiled, generate(model, prompt, **OPTIONS).sequences)
    assert any("dual_cache runs uncompiled" in record.getMessage() for record in caplog.records)


def test_only_dual_cache_compiles() -> None:
    with pytest.raises(ValueError, match="compiled must be left at False, got True: it belongs to dual_cache"):
        generate(tiny(), tokens(1, 6), compiled=True, **OPTIONS | {"decoder": "prefix_cache"})
