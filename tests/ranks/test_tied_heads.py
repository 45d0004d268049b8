"""If these fail, a head that is the embedding is torn from it by FSDP2: another gradient, or other weights restored."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from dmpo import DMPOConfig
from dmpo.decoding import generate
from dmpo.distributed.sharding import (
    full_model_state,
    full_optimizer_state,
    load_full_model_state,
    load_full_optimizer_state,
    whole_parameters,
)
from dmpo.models.masked_lm import head_weight, unwrap
from dmpo.objectives.gradient import accumulate_gradient
from tests.ranks.gradient_problems import SIZE, batch, policy
from tests.ranks.launch import on_ranks, results
from tests.tiny_models import tokens

OPTIONS: dict[str, Any] = {"decoder": "topk", "gen_length": 4, "block_length": 4, "steps": 2}


def both() -> list[dict[str, Any]]:
    accelerator = Accelerator()
    return [trained(accelerator, lora) for lora in (False, True)]


def trained(accelerator: Accelerator, lora: bool) -> dict[str, Any]:
    """Gradient, completions and state of a tied model before and after two steps, and of one restored in between."""
    data = batch(accelerator.process_index, accelerator.num_processes)
    config = DMPOConfig(model="", task="", output_dir="", alpha=0.5, micro_batch_size=7, num_generations=SIZE)

    def prepared() -> tuple[Any, Any, Any]:
        inner = policy(lora=lora, tied=True)
        optimizer = torch.optim.AdamW([p for p in inner.parameters() if p.requires_grad], lr=0.01)
        return (inner, *accelerator.prepare(inner, optimizer))

    def step(inner: Any, model: Any, optimizer: Any, number: int) -> dict[str, Any]:
        accumulate_gradient(accelerator, model, inner, data, config, step=number)
        gradients = {n: p.grad for n, p in inner.named_parameters() if p.requires_grad}
        whole = {n: getattr(g, "full_tensor", lambda g=g: g)().clone() for n, g in gradients.items()}
        optimizer.step()
        optimizer.zero_grad()
        return whole

    first = prepared()
    _, model, optimizer = first
    report: dict[str, Any] = {"gradient": step(*first, 0)}
    with torch.no_grad(), whole_parameters(model) as whole:
        report["completions"] = generate(whole, tokens(2, 3), **OPTIONS).sequences
        base: Any = unwrap(whole)
        assert base.lm_head.weight is base.model.embed_tokens.weight, "one weight, in decoding, too"
        report["head"] = head_weight(whole)[0].clone()
    saved = [full_model_state(model), full_optimizer_state(model, optimizer)]
    shared = [None if accelerator.process_index else copy.deepcopy(saved)]
    if accelerator.num_processes > 1:
        torch.distributed.broadcast_object_list(shared)
    assert shared[0] is not None
    assert not any("lm_head" in name for name in shared[0][0]), "one weight has one name"
    second = prepared()
    load_full_model_state(second[1], shared[0][0])
    load_full_optimizer_state(second[1], second[2], shared[0][1])
    for one in (first, second):
        step(*one, 1)
    later, again = full_model_state(model), full_model_state(second[1])
    assert later.keys() == again.keys()
    assert all(torch.equal(later[name], again[name]) for name in later)
    return report | {"state": later}


def test_sharded_tied_heads_are_those_of_one_process(tmp_path: Path) -> None:
    (alone,) = results(on_ranks(1, both, folder=tmp_path))
    ranks = results(on_ranks(2, both, folder=tmp_path, sharding="fsdp"))
    for rank, of_rank in enumerate(ranks):
        for found, expected in zip(of_rank, alone, strict=True):
            assert torch.equal(found["completions"], expected["completions"])
            torch.testing.assert_close(found["head"], expected["head"], rtol=1e-9, atol=1e-12)
            assert found["gradient"].keys() == expected["gradient"].keys()
            for name, gradient in found["gradient"].items():
                reference = expected["gradient"][name]
                assert (gradient - reference).abs().max() < 1e-10 * reference.abs().max(), name
            assert bool(found["state"]) == (rank == 0)
            for name, weight in found["state"].items():
                torch.testing.assert_close(weight, expected["state"][name], rtol=1e-8, atol=1e-11)
