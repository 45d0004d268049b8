"""If these fail, a loss or a draw of the public ops no longer compiles as one graph with PyTorch's code generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from dmpo import kernels
from tests.kernels.kernel_oracle import gradient_of, tensors_on

G = torch.Generator().manual_seed(1)
LOGITS, HIDDEN, WEIGHT = (torch.randn(shape, generator=G) for shape in ((2, 4, 33), (2, 4, 8), (33, 8)))
TARGETS, MASK = torch.randint(0, 33, (2, 4), generator=G), torch.rand(2, 4, generator=G) < 0.5
WEIGHTS, BASELINE = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.25])


@pytest.fixture(autouse=True)
def _constants_on_device(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in tensors_on(globals(), device).items():
        monkeypatch.setitem(globals(), name, value)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def from_logits(x: Tensor) -> Tensor:
    loss, nll = kernels.weighted_masked_ce(x.tanh() * 3, TARGETS, MASK, WEIGHTS, BASELINE, 0.5)
    return loss * 2 + nll.sum()


def from_hidden(h: Tensor) -> Tensor:
    loss, nll = kernels.linear_weighted_ce(h.tanh() * 3, WEIGHT, TARGETS, MASK, WEIGHTS, BASELINE, 0.5)
    return loss * 2 + nll.sum()


@pytest.mark.parametrize("loss", [from_logits, from_hidden])
def test_inductor_compiles_the_losses(loss: Callable[[Tensor], Tensor]) -> None:
    start = LOGITS if loss is from_logits else HIDDEN
    results = []
    for run in (loss, torch.compile(loss, fullgraph=True, backend="inductor")):
        x = start.clone().requires_grad_()
        out = run(x)
        out.backward()
        results.append((out.detach(), gradient_of(x)))
    torch.testing.assert_close(results[0], results[1])
    assert results[0][1].abs().max() > 0


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_inductor_compiles_the_draw(temperature: float) -> None:
    def draw(x: Tensor) -> tuple[Tensor, Tensor]:
        ids, confidence = kernels.sample_tokens(x.flatten(0, 1) * 2, temperature, seed=5, forbid=(3,))
        return ids + 1, confidence * 2

    compiled = torch.compile(draw, fullgraph=True, backend="inductor")(LOGITS)
    expected = draw(LOGITS)
    assert torch.equal(compiled[0], expected[0])
    torch.testing.assert_close(compiled[1], expected[1])
