"""If these fail, compiled layers of several ranks wait for each other without end, or compute something else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, fx

from dmpo.distributed.sharding import whole_parameters
from dmpo.models.compiled_layers import compile_layers
from dmpo.models.masked_lm import apply_head
from tests.ranks.launch import Sharding, on_ranks, results
from tests.tiny_models import tiny, tokens, with_random_adapters

LAYERS = 3


def loss(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return (hidden @ weight.T).logsumexp(-1).sum()


def two_steps(sharded: bool) -> int:
    """On the same rows at every rank, beside an eager model of one process. With sharded parameters the second rank
    also scores, and compiles for that alone. Returns how often a compiled layer ran."""
    eager = with_random_adapters(tiny(num_layers=LAYERS), rank=2, dropout=0.0)
    policy, calls = copy.deepcopy(eager), 0
    accelerator = Accelerator()
    weights = [[p for p in model.parameters() if p.requires_grad] for model in (policy, eager)]
    optimizers: list[Any] = [torch.optim.SGD(trainable, lr=0.1) for trainable in weights]
    prepared, optimizers[0] = accelerator.prepare(policy, optimizers[0])

    def traced(graph: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            return graph.forward(*args)

        return run

    compile_layers(policy, traced)
    for seed in range(2):
        with torch.no_grad(), whole_parameters(prepared) as inner:
            if sharded and accelerator.process_index == 1:
                torch.testing.assert_close(*(apply_head(model, loss, tokens(2, 6)) for model in (inner, eager)))
                with inner.disable_adapter(), eager.disable_adapter():
                    torch.testing.assert_close(*(apply_head(model, loss, tokens(2, 6)) for model in (inner, eager)))
        values = [apply_head(model, loss, tokens(2, 6, seed=seed)) for model in (prepared, eager)]
        torch.testing.assert_close(*values)  # the second ones are of weights that the first gradients have changed
        for value, optimizer in zip(values, optimizers, strict=True):
            accelerator.backward(value)
            optimizer.step()
            optimizer.zero_grad()
    return calls


@pytest.mark.parametrize("sharding", ["fsdp"])  # "none", which is DDP, holds too; it takes as long again
def test_two_ranks_compute_what_one_does_eagerly(sharding: Sharding, tmp_path: Path) -> None:
    calls = results(on_ranks(2, two_steps, sharding == "fsdp", folder=tmp_path, sharding=sharding))
    updates = 2 * (LAYERS - 1)
    assert calls == [updates, 3 * updates if sharding == "fsdp" else updates], "all layers but the last ran compiled"
