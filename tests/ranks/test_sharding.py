"""If these fail, ranks that share parameters wait for each other without end, or restore other weights than saved."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from dmpo.decoding import generate
from dmpo.distributed.sharding import (
    full_model_state,
    full_optimizer_state,
    load_full_model_state,
    load_full_optimizer_state,
    whole_parameters,
)
from dmpo.models.fp8 import fp8_base
from dmpo.models.masked_lm import apply_head, head_weight
from tests.ranks.gradient_problems import policy
from tests.ranks.launch import on_ranks, results
from tests.tiny_models import tokens


def prepared(inner: Any) -> tuple[Accelerator, Any, Any]:
    accelerator = Accelerator()
    optimizer = torch.optim.AdamW([p for p in inner.parameters() if p.requires_grad], lr=0.01)
    return (accelerator, *accelerator.prepare(inner, optimizer))


def step(accelerator: Accelerator, model: Any, optimizer: Any, seed: int) -> None:
    """On the same rows at every rank, so that one process alone does the same."""

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return (hidden @ weight.T).logsumexp(-1).sum()

    accelerator.backward(apply_head(model, loss, tokens(2, 6, seed=seed)))
    optimizer.step()
    optimizer.zero_grad()


def whole_for_a_while(lora: bool, sharded: bool) -> None:
    plain, prompts = policy(lora=lora), tokens(2, 3)
    accelerator, model, optimizer = prepared(copy.deepcopy(plain))
    options: dict[str, Any] = {"decoder": "parallel", "gen_length": 4, "block_length": 4, "steps": 4, "threshold": 0.5}
    plain_optimizer = torch.optim.AdamW([p for p in plain.parameters() if p.requires_grad], lr=0.01)
    with torch.no_grad(), fp8_base(plain):
        expected_in_fp8 = generate(plain, prompts, **options).sequences
    for seed in range(2):
        expected = generate(plain, prompts, **options).sequences
        with torch.no_grad(), whole_parameters(model) as inner:
            for _ in range(1 + 3 * accelerator.process_index):  # the forwards of one wait for no other
                assert torch.equal(generate(inner, prompts, **options).sequences, expected)
            if seed == 0:
                with fp8_base(inner):
                    assert torch.equal(generate(inner, prompts, **options).sequences, expected_in_fp8)
            with whole_parameters(model):
                torch.testing.assert_close(head_weight(inner)[0], head_weight(plain)[0], rtol=1e-9, atol=1e-12)
            assert not any(hasattr(p, "full_tensor") for p in inner.parameters())
        assert all(hasattr(p, "full_tensor") for p in inner.parameters()) == sharded
        if sharded:
            with pytest.raises(ValueError, match="whole_parameters"):
                head_weight(model)
        step(accelerator, model, optimizer, seed)  # the forwards above have left nothing behind
        step(accelerator, plain, plain_optimizer, seed)
    with pytest.raises(ZeroDivisionError), whole_parameters(model) as inner:
        apply_head(inner, lambda *parts: 1 / 0, prompts)
    step(accelerator, model, optimizer, 2)


def saved_and_restored(lora: bool) -> list[dict[str, Tensor]]:
    """The state after two steps; after a third, it is the same with and without saving and restoring in between."""
    accelerator, model, optimizer = prepared(policy(lora=lora))
    assert full_optimizer_state(model, optimizer) == {}
    for seed in range(2):
        step(accelerator, model, optimizer, seed)
    saved = [full_model_state(model), full_optimizer_state(model, optimizer)]
    shared = [None if accelerator.process_index else saved]
    if accelerator.num_processes > 1:
        torch.distributed.broadcast_object_list(shared)
    assert shared[0] is not None
    _, other, other_optimizer = prepared(policy(lora=lora))
    load_full_model_state(other, shared[0][0])
    load_full_optimizer_state(other, other_optimizer, shared[0][1])
    for pair in ((model, optimizer), (other, other_optimizer)):
        step(accelerator, *pair, seed=7)
    later, again = (
        [full_model_state(m), full_optimizer_state(m, o)] for m, o in ((model, optimizer), (other, other_optimizer))
    )
    for a, b in zip(later, again, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    name = next(iter(shared[0][0]))
    for wrong in ({name: shared[0][0][name]}, shared[0][0] | {name: torch.zeros(3)}):
        with pytest.raises(ValueError, match=r"missing or unknown|has shape"):
            load_full_model_state(other, wrong)
    return saved


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_ranks_may_run_as_many_forwards_as_they_like(lora: bool, sharded: bool, tmp_path: Path) -> None:
    results(on_ranks(2, whole_for_a_while, lora, sharded, folder=tmp_path, sharding="fsdp" if sharded else "none"))


@pytest.mark.parametrize("lora", [False, True])
def test_state_is_that_of_one_process(lora: bool, tmp_path: Path) -> None:
    (alone,) = results(on_ranks(1, saved_and_restored, lora, folder=tmp_path))
    for sharded in (False, True):
        first, second = results(
            on_ranks(2, saved_and_restored, lora, folder=tmp_path, sharding="fsdp" if sharded else "none")
        )
        assert second == [{}, {}], "only the first rank holds it"
        for found, expected in zip(first, alone, strict=True):
            assert found.keys() == expected.keys()
            for name, value in found.items():
                assert type(value) is Tensor
                torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-12)
