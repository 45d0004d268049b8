"""If these fail, the gradient depends on how many ranks there are, or on whether they share the parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from dmpo import DMPOConfig
from dmpo.objectives.gradient import accumulate_gradient
from tests.ranks.gradient_problems import SIZE, batch, policy
from tests.ranks.launch import on_ranks, results

ON_PATH: dict[str, Any] = {"loss": "wdce_path", "decoder": "random_order", "early_stop": False, "temperature": 1.0}
LOSSES: dict[str, dict[str, Any]] = {
    "wdce": {"micro_batch_size": 0},
    "theta": {"baseline": "theta", "micro_batch_size": 7, "rollout_batch_size": 5},
    "adaptive": {"ess_target": 0.5, "micro_batch_size": 9},
    "stratified": {"view_rates": "stratified", "micro_batch_size": 7},
    "gauss, by confidence": {
        "view_rates": "gauss",
        "view_positions": "confidence",
        "antithetic": False,
        "micro_batch_size": 9,
    },
    "path": {**ON_PATH, "baseline": "theta", "micro_batch_size": 7, "rollout_batch_size": 5},
    "wddo": {"loss": "wddo", "wddo_beta": 0.05, "micro_batch_size": 11, "rollout_batch_size": 3},
    "rspo": {"loss": "rspo", "micro_batch_size": 11},
    "tb": {"loss": "tb", "micro_batch_size": 11, "rollout_batch_size": 3},
    "wd1": {"loss": "wd1", "replicates": 3, "micro_batch_size": 11},
    "diffu_grpo": {"loss": "diffu_grpo", "replicates": 3, "clip_epsilon": 0.3, "micro_batch_size": 7},
}
Gradients = dict[str, tuple[float, dict[str, Tensor]]]


def gradients(kinds: tuple[bool, ...], checkpointing: bool = False) -> dict[bool, Gradients]:
    """Loss and gradient of each loss, with (True) and without LoRA, as every rank has them."""
    accelerator = Accelerator()
    data = batch(accelerator.process_index, accelerator.num_processes)
    measured: dict[bool, Gradients] = {}
    for lora in kinds:
        inner = policy(lora=lora)
        if checkpointing:
            inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        optimizer = torch.optim.AdamW([p for p in inner.parameters() if p.requires_grad])
        model, optimizer = accelerator.prepare(inner, optimizer)
        measured[lora] = {}
        for name, changes in LOSSES.items():
            options: dict[str, Any] = {"model": "", "task": "", "output_dir": "", "alpha": 0.5, **changes}
            config = DMPOConfig(**options, num_generations=SIZE)
            loss = accumulate_gradient(accelerator, model, inner, data, config, step=5).loss
            own = {n: p.grad for n, p in inner.named_parameters() if p.requires_grad}
            whole = {n: getattr(grad, "full_tensor", lambda grad=grad: grad)() for n, grad in own.items()}
            measured[lora][name] = loss, {n: grad.clone() for n, grad in whole.items()}
            optimizer.zero_grad()
    return measured


def check(ranks: list[Any], expected: dict[bool, Gradients]) -> None:
    for of_rank in ranks:
        for lora, losses in of_rank.items():
            for name, (loss, grads) in losses.items():
                wanted, wanted_grads = expected[lora][name]
                assert loss == pytest.approx(wanted, rel=1e-10), name
                assert grads.keys() == wanted_grads.keys()
                for parameter, grad in grads.items():
                    reference = wanted_grads[parameter]
                    difference = (grad - reference).abs().max() / reference.abs().max()
                    assert difference < 1e-10, f"{name}, {parameter}: {difference}"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Gradients]:
    (rank,) = results(on_ranks(1, gradients, (False, True), folder=tmp_path_factory.mktemp("alone")))
    return rank


def test_three_uneven_ranks_have_the_gradient_of_one(alone: dict[bool, Gradients], tmp_path: Path) -> None:
    check(results(on_ranks(3, gradients, (False, True), folder=tmp_path)), alone)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_sharded_parameters_have_the_gradient_of_whole_ones(
    checkpointing: bool, alone: dict[bool, Gradients], tmp_path: Path
) -> None:
    """FSDP2 on two ranks, with the head in a group of its own."""
    check(results(on_ranks(2, gradients, (False, True), checkpointing, folder=tmp_path, sharding="fsdp")), alone)
