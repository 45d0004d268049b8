"""If these fail, the gradient depends on how many ranks there are, or on whether they share the parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from dmpo import DMPOConfig
from dmpo.batch import Batch
from dmpo.likelihood import Completions
from dmpo.lora import add_lora
from dmpo.objective import accumulate_gradient
from dmpo.parallel import rank_rows
from tests.ranks.launch import on_ranks, results
from tests.tiny_models import tiny, tokens

GROUPS, SIZE, PROMPT, LENGTH = 5, 5, 3, 6  # 25 rows: neither 2 nor 3 ranks get equal shares, and groups span them
LOSSES: dict[str, dict[str, Any]] = {
    "wdce": {"micro_batch_size": 0},
    "theta": {"baseline": "theta", "micro_batch_size": 7, "rollout_batch_size": 5},
    "adaptive": {"ess_target": 0.5, "micro_batch_size": 9},
    "wddo": {"loss": "wddo", "wddo_beta": 0.05, "micro_batch_size": 11, "rollout_batch_size": 3},
    "wd1": {"loss": "wd1", "replicates": 3, "micro_batch_size": 11},
    "diffu_grpo": {"loss": "diffu_grpo", "replicates": 3, "clip_epsilon": 0.3, "micro_batch_size": 7},
}
Gradients = dict[str, tuple[float, dict[str, Tensor]]]


def batch(rank: int, world: int) -> Batch:
    """One rank's part of always the same groups."""
    count = GROUPS * SIZE
    share = rank_rows(count, rank, world)
    prompt_ids, made = tokens(count, PROMPT, seed=1), tokens(count, LENGTH, seed=2)
    eligible = torch.ones_like(made).bool()
    eligible[2, 4:] = False
    completions = Completions(prompt_ids, torch.ones_like(prompt_ids).bool(), made, eligible)
    numbers = torch.randn(3, GROUPS, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    age = torch.zeros(GROUPS).long()
    scores = -4 + torch.randn(2, count, 8, 3, LENGTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scores[1, 7, 0, 1, 2] = float("nan")  # of group 1, which is left out where they are read
    cur, ref = scores[:, share]
    return Batch(
        completions[share], torch.arange(count)[share], *numbers.unbind(), age, {}, one_step_cur=cur, one_step_ref=ref
    )


class Norm(torch.nn.Module):
    """RMSNorm in the dtype of its input: transformers' is float32 inside, where a gradient times three is rounded."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.epsilon = norm.weight, norm.variance_epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        return self.weight * hidden * (hidden.square().mean(-1, keepdim=True) + self.epsilon).rsqrt()


def policy(*, lora: bool) -> Any:
    model: Any = tiny().double()
    for layer in model.model.layers:
        for name in ("input_layernorm", "post_attention_layernorm"):
            setattr(layer, name, Norm(getattr(layer, name)))
    model.model.norm = Norm(model.model.norm)
    if lora:
        torch.manual_seed(0)
        model = add_lora(model, rank=2, alpha=4, dropout=0.0).double()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
    return model


def gradients(kinds: tuple[bool, ...], checkpointing: bool = False) -> dict[bool, Gradients]:
    """Loss and gradient of each loss, with (True) and without LoRA, as every rank has them."""
    accelerator = Accelerator()
    data = batch(accelerator.process_index, accelerator.num_processes)
    found: dict[bool, Gradients] = {}
    for lora in kinds:
        inner = policy(lora=lora)
        if checkpointing:
            inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        optimizer = torch.optim.AdamW([p for p in inner.parameters() if p.requires_grad])
        model, optimizer = accelerator.prepare(inner, optimizer)
        found[lora] = {}
        for name, changes in LOSSES.items():
            options: dict[str, Any] = {"model": "", "task": "", "output_dir": "", "alpha": 0.5, **changes}
            config = DMPOConfig(**options, num_generations=SIZE)
            loss = accumulate_gradient(accelerator, model, inner, data, config, step=5).loss
            parts = {n: p.grad for n, p in inner.named_parameters() if p.requires_grad}
            whole = {n: getattr(grad, "full_tensor", lambda grad=grad: grad)() for n, grad in parts.items()}
            found[lora][name] = loss, {n: grad.clone() for n, grad in whole.items()}
            optimizer.zero_grad()
    return found


def check(found: list[Any], expected: dict[bool, Gradients]) -> None:
    for of_rank in found:
        for lora, losses in of_rank.items():
            for name, (loss, grads) in losses.items():
                wanted, parts = expected[lora][name]
                assert loss == pytest.approx(wanted, rel=1e-10), name
                assert grads.keys() == parts.keys()
                for parameter, grad in grads.items():
                    difference = (grad - parts[parameter]).abs().max() / parts[parameter].abs().max()
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
