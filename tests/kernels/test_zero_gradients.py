"""If these fail, a backward allocates zeros for outputs that have no gradient: up to the head's size for nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dmpo import kernels
from tests.kernels.kernel_oracle import both_paths

N, L, V, H = 2, 3, 40, 8


class Zeros(TorchDispatchMode):
    """Shapes of the zeros that are made outside custom ops."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if "zeros" in func._schema.name:
            self.shapes.append(tuple(out.shape))
        return out


def losses() -> dict[str, tuple[Callable[[], Tensor], list[tuple[int, ...]]]]:
    """Each op that has outputs beside its result, as a scalar, and the zeros its backward needs."""
    logits = torch.randn(N, L, V, requires_grad=True)
    hidden, head = torch.randn(N, L, H, requires_grad=True), torch.randn(V, H, requires_grad=True)
    targets, mask = torch.randint(V, (N, L)), torch.ones(N, L, dtype=torch.bool)
    weights = torch.tensor([0.5, 0.25])
    rows: list[tuple[int, ...]] = [(N * L, H)]  # hidden states of live rows are written into zeros
    return {
        "masked": (lambda: kernels.masked_token_logprobs(logits, targets, mask).sum(), []),
        "weighted": (lambda: kernels.weighted_masked_ce(logits, targets, mask, weights)[0], []),
        "linear": (lambda: kernels.linear_token_logprobs(hidden[mask], head, targets[mask]).sum(), []),
        "linear_weighted": (lambda: kernels.linear_weighted_ce(hidden, head, targets, mask, weights)[0], rows),
    }


@both_paths
@pytest.mark.parametrize("name", ["masked", "weighted", "linear", "linear_weighted"])
def test_backward_makes_no_zeros_for_outputs_without_a_gradient(path: str, name: str) -> None:
    run, needed = losses()[name]
    loss = run()
    with Zeros() as zeros:
        loss.backward()
    ours = [shape for shape in zeros.shapes if shape != (N, L, H)]  # hidden[mask] is PyTorch's own
    assert ours == needed
