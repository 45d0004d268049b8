"""If these fail, `optim` names another optimizer than it says, or its state does not survive a checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from benchmarks.memory import simulated_step as simulated
from dmpo.config import DMPOConfig
from dmpo.distributed.sharding import full_optimizer_state, load_full_optimizer_state
from dmpo.models.masked_lm import unwrap
from dmpo.planning.plan import plan
from dmpo.rollouts.policy import make_policy
from dmpo.run.optimizer import check_optimizer, make_optimizer
from dmpo.run.preflight import check_ranks
from tests.small_runs import lines, settings, trainer
from tests.tiny_models import tiny

EIGHT: dict[str, Any] = {"optim": "adamw_8bit", "eval_steps": 0, "eval_prompts": 1, "save_steps": 3}


def test_names_of_transformers_mean_the_same() -> None:
    for name, usual in (("adamw_torch", "adamw"), ("adamw_bnb_8bit", "adamw_8bit")):
        assert settings(Path("run"), optim=name).optim == usual
    with pytest.raises(ValueError, match="'optim': Input should be 'adamw'"):
        settings(Path("run"), optim="sgd")


def test_it_is_adamw_in_8_bits() -> None:
    """Against AdamW in float64; an 8-bit moment is within a few per cent, and small weights have float32 moments."""
    torch.manual_seed(0)
    large, small = torch.randn(64, 80), torch.randn(40)
    config = settings(Path("run"), optim="adamw_8bit", learning_rate=1e-2, weight_decay=0.1, adam_beta2=0.95)
    weights = [torch.nn.Parameter(value.clone()) for value in (large, small)]
    exact = [torch.nn.Parameter(value.double()) for value in (large, small)]
    ours = make_optimizer(config, weights)
    theirs = torch.optim.AdamW(exact, 1e-2, (0.9, 0.95), weight_decay=0.1)
    for _ in range(3):
        for one, other in zip(weights, exact, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.double()
        ours.step()
        theirs.step()
    assert ours.state[weights[0]]["state1"].dtype == torch.uint8
    moved = [(other.detach() - start.double()).norm() for other, start in zip(exact, (large, small), strict=True)]
    off = [(one.detach() - other.detach()).norm() for one, other in zip(weights, exact, strict=True)]
    assert 0 < off[0] < 0.1 * moved[0]
    assert off[1] < 1e-4 * moved[1]


def test_its_state_is_restored_bit_for_bit() -> None:
    """Weights of 4096 elements and more, whose moments are in 8 bits, and smaller ones."""
    config = settings(Path("run"), optim="adamw_8bit")
    model, other = (tiny(hidden_size=64, mlp_hidden_size=96, vocab_size=7, mask_id=1, eos_id=0) for _ in range(2))
    optimizer, restored = (make_optimizer(config, one.parameters()) for one in (model, other))

    def step(one: torch.nn.Module, by: torch.optim.Optimizer) -> None:
        torch.manual_seed(1)
        for parameter in one.parameters():
            parameter.grad = torch.randn_like(parameter)
        by.step()

    step(model, optimizer)
    state = full_optimizer_state(model, optimizer)
    assert {value.dtype for value in state.values()} == {torch.uint8, torch.float32, torch.int64}
    other.load_state_dict(model.state_dict())
    load_full_optimizer_state(other, restored, state)
    for _ in range(2):
        step(model, optimizer)
        step(other, restored)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    wrong = {name: value[:1] if name.endswith("state1") else value for name, value in state.items()}
    with pytest.raises(ValueError, match="state1 has shape"):
        load_full_optimizer_state(other, restored, wrong)


@pytest.mark.parametrize("lora_r", [0, 2])
def test_a_run_resumes_with_it(tmp_path: Path, lora_r: int) -> None:
    options = EIGHT | {"lora_r": lora_r}
    trainer(settings(tmp_path / "whole", **options)).train()
    trainer(settings(tmp_path / "parts", max_steps=3, **options)).train()
    trainer(settings(tmp_path / "parts", resume=True, **options)).train()
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    name = "checkpoints/step-6/optimizer.safetensors"
    whole, parts = (load_file(tmp_path / run / name) for run in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_without_bitsandbytes_it_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr("dmpo.trainer.make_policy", lambda *arguments: pytest.fail("a model is loaded"))
    with pytest.raises(ValueError, match=r"optim adamw_8bit needs bitsandbytes .*dmpo\[quant\].* or set optim=adamw"):
        trainer(settings(tmp_path, **EIGHT))
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"needs a device of type .* got meta"):
        check_optimizer(settings(tmp_path, **EIGHT), torch.device("meta"))


def test_sharded_runs_refuse_it(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator: Any = SimpleNamespace(num_processes=1, distributed_type=DistributedType.FSDP)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ValueError, match="optim must be adamw with fsdp, which splits the optimizer over ranks"):
        check_ranks(settings(Path("run"), **EIGHT), accelerator)
    config = DMPOConfig(model="", task="", output_dir="", optim="adamw_8bit")
    for kind in ("zero2", "zero3", "fsdp"):
        with pytest.raises(ValueError, match=f"optim must be adamw with {kind}"):
            plan(config, simulated.llada_8b(layers=1), gpus=2, sharding=kind)


@pytest.mark.parametrize("lora_r", [0, 64])
def test_the_plan_counts_its_moments(lora_r: int) -> None:
    """Exactly, with the codes of the 256 values, which all weights share."""
    config = settings(Path("run"), optim="adamw_8bit", lora_r=lora_r)
    policy: Any = make_policy(config, "cpu", tiny(hidden_size=64, mlp_hidden_size=96))
    optimizer = make_optimizer(config, policy.parameters())
    for parameter in policy.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    tensors = {id(x): x for state in optimizer.state.values() for x in state.values() if isinstance(x, torch.Tensor)}
    planned = plan(config, unwrap(policy).config, device="cpu")
    assert planned.phases["update"]["optimizer"] == sum(x.nbytes for x in tensors.values())
