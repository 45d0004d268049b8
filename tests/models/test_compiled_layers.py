"""If these fail, compiled decoder layers differ from eager ones, are compiled for each layer or shape, rename weights,
or hide that they could not be compiled."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from peft import get_peft_model_state_dict
from torch import Tensor, fx, nn

from dmpo.decoding import compiled_step, generate
from dmpo.models import compiled_layers
from dmpo.models.compiled_layers import compile_layers
from dmpo.models.fp8 import fp8_base
from dmpo.models.lora import add_lora
from dmpo.models.masked_lm import hidden_states
from dmpo.models.merged_adapters import merged_adapters
from dmpo.run.preflight import check_ranks
from tests.small_runs import lines, settings, trainer
from tests.tiny_models import tiny, tokens

LAYERS = 4


class Traced:
    """A backend that runs the traced graph as it is, and keeps count of graphs and of their calls."""

    def __init__(self) -> None:
        self.graphs = self.calls = 0

    def __call__(self, graph: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        self.graphs += 1

        def run(*args: Any) -> Any:
            self.calls += 1
            return graph.forward(*args)

        return run


@pytest.fixture(autouse=True)
def _no_graph_is_kept() -> Iterator[None]:
    names = ("recompile_limit", "specialize_float", "optimize_ddp")
    before = {name: getattr(torch._dynamo.config, name) for name in names}
    duck_shape = torch.fx.experimental._config.use_duck_shape
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    for name, value in before.items():
        setattr(torch._dynamo.config, name, value)
    torch.fx.experimental._config.use_duck_shape = duck_shape


def adapted(dropout: float = 0.0, **changes: Any) -> Any:
    """A model with adapters that are not zero."""
    torch.manual_seed(0)
    policy: Any = add_lora(tiny(**{"num_layers": LAYERS} | changes), rank=2, alpha=4, dropout=dropout)
    for name, weight in policy.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    return policy.eval()


def gradient(policy: Any, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Hidden states and the gradient of all adapters, for a fixed slope."""
    torch.manual_seed(1)
    policy.train()
    policy.zero_grad()
    hidden = hidden_states(policy, ids, mask)
    slope = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    hidden.backward(slope.to(hidden.dtype))
    return hidden.detach(), torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


def relative(error: Tensor, exact: Tensor) -> float:
    return float((error.double() - exact).norm() / exact.norm())


def test_layers_and_shapes_share_graphs_and_names_stay() -> None:
    policy, backend = adapted(), Traced()
    eager, names = copy.deepcopy(policy), list(policy.state_dict())
    compile_layers(policy, backend)
    assert list(policy.state_dict()) == names
    assert list(get_peft_model_state_dict(policy)) == list(get_peft_model_state_dict(eager))
    with torch.no_grad():
        for rows, length in ((4, 9), (3, 12), (5, 5), (12, 7)):
            ids = tokens(rows, length)
            torch.testing.assert_close(hidden_states(policy, ids), hidden_states(eager, ids))
    assert backend.graphs == 1
    assert backend.calls == 4 * (LAYERS - 1), "the last layer is eager"
    for rows, length in ((4, 9), (3, 12)):
        torch.testing.assert_close(gradient(policy, tokens(rows, length)), gradient(eager, tokens(rows, length)))
    assert backend.graphs == 3, "with a gradient the first layer and the others differ: the embeddings need none"
    copied = copy.deepcopy(policy)
    with torch.no_grad():
        copied.base_model.model.model.layers[0].input_layernorm.weight.zero_()
        different = hidden_states(copied, tokens(2, 5)) - hidden_states(policy, tokens(2, 5))
    assert different.abs().max() > 0.01, "a copied layer runs on its own weights"


def test_decoding_with_stored_keys_draws_the_same_tokens() -> None:
    policy, backend = adapted(), Traced()
    eager = copy.deepcopy(policy)
    compile_layers(policy, backend)
    options: dict[str, Any] = {"decoder": "dual_cache", "gen_length": 8, "block_length": 4, "steps": 4}
    for rows, length in ((4, 6), (3, 5)):
        prompt = tokens(rows, length)
        for mask in (None, torch.arange(length) >= torch.arange(rows).unsqueeze(1)):
            given: dict[str, Any] = options if mask is None else options | {"attention_mask": mask}
            expected = generate(eager, prompt, **given)
            assert torch.equal(generate(policy, prompt, **given).sequences, expected.sequences)
    assert backend.graphs <= 4, "with a mask and without: the pass that stores keys, and the pass that reads them"


def test_checkpointing_recomputes_compiled_layers() -> None:
    policy, backend = adapted(), Traced()
    eager = copy.deepcopy(policy)
    inner = policy.get_base_model()
    enable = getattr(inner, "activation_checkpointing_enable", None) or inner.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    compile_layers(policy, backend)
    torch.testing.assert_close(gradient(policy, tokens(3, 7)), gradient(eager, tokens(3, 7)))
    assert backend.calls >= LAYERS - 1
    assert backend.graphs <= 2


def test_a_failure_is_told_once_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def no_compiler(graph: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        torch.rand(3)
        raise RuntimeError("no compiler here")

    policy = adapted(dropout=0.5)
    expected = gradient(policy, tokens(3, 7))
    compile_layers(policy, no_compiler)
    with caplog.at_level(logging.WARNING, logger="dmpo"):
        for _ in range(2):
            assert all(map(torch.equal, gradient(policy, tokens(3, 7)), expected))
    (said,) = [record.getMessage() for record in caplog.records]
    assert "decoder layers run uncompiled" in said
    assert "no compiler here" in said


@pytest.mark.parametrize("kind", [AssertionError, IndexError])
def test_errors_that_torch_does_not_wrap_are_failures_too(
    kind: type[Exception], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise kind("Attempt to trace forbidden callable")

    policy = adapted(num_layers=2)
    expected = gradient(policy, tokens(3, 7))
    monkeypatch.setattr(torch, "compile", lambda function, **options: forbidden)
    compile_layers(policy)
    with caplog.at_level(logging.WARNING, logger="dmpo"):
        assert all(map(torch.equal, gradient(policy, tokens(3, 7)), expected))
    assert "decoder layers run uncompiled: Attempt to trace forbidden callable" in caplog.text


@pytest.mark.parametrize("fp8", [False, True])
def test_merged_and_fp8_weights_and_compiled_steps_draw_the_same_tokens(
    fp8: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As of two rounds; the second one compiles nothing."""
    policy, backend = adapted(num_layers=2), Traced()
    eager = copy.deepcopy(policy)
    compile_layers(policy, backend)
    step = torch.compile(compiled_step.call_step, dynamic=False, fullgraph=True, backend=backend)
    monkeypatch.setattr(compiled_step, "_compiled", lambda device: step)
    options: dict[str, Any] = {"decoder": "dual_cache", "gen_length": 8, "block_length": 4, "steps": 4}
    expected = []
    for _ in range(2):
        graphs, drawn = backend.graphs, []
        for model in (policy, eager):
            with torch.no_grad(), fp8_base(model) if fp8 else merged_adapters(model):
                drawn.append(generate(model, tokens(3, 5), compiled=model is policy, **options).sequences)
        assert torch.equal(*drawn)
        expected.append(drawn[1])
    assert torch.equal(*expected)
    assert 3 <= graphs == backend.graphs, "a block's first pass, stored and overwritten; its later steps"
    assert not [record for record in caplog.records if record.name == "dmpo"], "nothing ran uncompiled"


def test_too_many_graphs_are_told(caplog: pytest.LogCaptureFixture) -> None:
    policy, backend = adapted(num_layers=2), Traced()
    eager = copy.deepcopy(policy)
    compile_layers(policy, backend)
    torch._dynamo.config.recompile_limit = 1
    with caplog.at_level(logging.WARNING, logger="dmpo"), torch.no_grad():
        for rows in (2, 3, 1, 2):
            ids = tokens(rows, 5)
            torch.testing.assert_close(hidden_states(policy, ids), hidden_states(eager, ids))
    assert backend.graphs == 1
    (said,) = [record.getMessage() for record in caplog.records if record.name == "dmpo"]
    assert "decoder layers run uncompiled" in said
    assert "called in more than 1 ways" in said


def test_a_run_compiles_few_graphs_and_may_change_its_mind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rollouts, scores, updates and evaluation, of two batch sizes: eager, then on from the checkpoint with compiled
    layers, then on without them."""
    backend = Traced()
    monkeypatch.setattr(compiled_layers, "inductor", backend)
    common: dict[str, Any] = {"lora_r": 2, "lora_dropout": 0.0, "max_steps": 6, "eval_prompts": 6, "save_steps": 2}
    eager = trainer(settings(tmp_path / "eager", **common))
    eager.train()
    trainer(settings(tmp_path / "run", **common | {"max_steps": 2})).train()
    assert backend.graphs == 0
    trainer(settings(tmp_path / "run", compile="layers", resume=True, **common | {"max_steps": 4})).train()
    graphs = backend.graphs
    trainer(settings(tmp_path / "run", compile="none", resume=True, **common)).train()
    assert graphs == backend.graphs == 3, "rollouts and scores; scores without adapters; updates of the first layer"
    losses = [[line["loss"] for line in lines(tmp_path / name)] for name in ("eager", "run")]
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-4, atol=1e-6)


def test_zero_3_is_refused(tmp_path: Path) -> None:
    state = SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=3))
    accelerator: Any = SimpleNamespace(num_processes=1, distributed_type=DistributedType.DEEPSPEED, state=state)
    with pytest.raises(ValueError, match="compile 'layers' does not go with DeepSpeed ZeRO-3"):
        check_ranks(settings(tmp_path, compile="layers"), accelerator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fused_layers_are_as_exact_as_eager_ones(dtype: torch.dtype) -> None:
    """With PyTorch's code generator, hidden states and gradient, beside float64 of the same weights."""
    policy = adapted(num_layers=2, hidden_size=32).to(dtype)
    exact = gradient(copy.deepcopy(policy).double(), tokens(3, 7))
    eager = gradient(policy, tokens(3, 7))
    compile_layers(policy)
    for compiled, plain, wanted in zip(gradient(policy, tokens(3, 7)), eager, exact, strict=True):
        assert relative(compiled - wanted, wanted) <= 2 * relative(plain - wanted, wanted)
        assert not torch.equal(compiled, plain), "nothing was fused"
