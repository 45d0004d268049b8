"""If these fail, a key of the config does not do in a run what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dmpo.planning.plan import GB, PHASES, plan
from tests.small_runs import lines, settings, trainer
from tests.tiny_models import tiny


@pytest.fixture(autouse=True)
def _no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmpo.trainer.plot_run", lambda *arguments: None)  # takes longer than these runs


@pytest.mark.parametrize("baseline", ["none", "mean", "negative", "theta"])
def test_every_baseline_runs(tmp_path: Path, baseline: Any) -> None:
    trainer(settings(tmp_path, baseline=baseline, lora_r=2, max_steps=2, eval_steps=0)).train()
    assert all(torch.isfinite(torch.tensor(line["loss"])) for line in lines(tmp_path))


def test_the_reference_is_refreshed_every_so_many_steps(tmp_path: Path) -> None:
    options: dict[str, Any] = {"gradient_steps": 1, "max_steps": 4, "eval_steps": 0, "save_steps": 0}
    trainer(settings(tmp_path / "run", reference_refresh_steps=2, **options)).train()
    zero = [line["log_ratio"] == 0 for line in lines(tmp_path / "run")]
    assert zero == [True, False, True, False], "just refreshed, the policy is its reference"


def test_the_buffer_is_used_and_what_is_stale_leaves_it(tmp_path: Path) -> None:
    options: dict[str, Any] = {"gradient_steps": 1, "max_steps": 5, "eval_steps": 0, "save_steps": 0}
    options |= {"buffer_rounds": 3, "learning_rate": 3e-2}
    for name, ess in (("all", 0.0), ("fresh", 1.0)):
        trainer(settings(tmp_path / name, buffer_min_ess=ess, **options)).train()
    kept, fresh = lines(tmp_path / "all"), lines(tmp_path / "fresh")
    assert [line["buffer_groups"] for line in kept] == [4, 8, 12, 12, 12]
    assert kept[-1]["buffer_dropped"] == 0
    assert kept[-1]["age"] > 0
    assert all(line["buffer_groups"] < 12 for line in fresh)
    assert fresh[-1]["buffer_dropped"] > 8


def test_accumulation_in_a_launch_config_does_not_scale_the_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("plain", "accumulating"):
        trainer(settings(tmp_path / name, max_steps=2, eval_steps=0, micro_batch_size=8)).train()
        monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")  # what accelerate launch hands down
    assert lines(tmp_path / "plain") == lines(tmp_path / "accumulating")


def test_a_memory_budget_chooses_the_micro_batch(tmp_path: Path) -> None:
    run = trainer(settings(tmp_path, rollout_batch_size=1, micro_batch_size=5))
    needed = plan(run.config, run.policy.config, device="cpu")
    for budget, size in ((max(map(needed.peak, PHASES)) / GB, 5), (10.0, 32)):  # of 32 views
        changes: dict[str, Any] = {"rollout_batch_size": 1, "memory_budget": budget}
        assert trainer(settings(tmp_path, **changes)).config.micro_batch_size == size
    with pytest.raises(ValueError, match="memory_budget: a micro-batch of one view needs"):
        trainer(settings(tmp_path, memory_budget=1e-6))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("lora_r", [0, 2])
def test_checkpointing_of_activations_changes_memory_alone(tmp_path: Path, lora_r: int) -> None:
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[-1] += tensor.numel()
        return tensor

    short: dict[str, Any] = {"max_steps": 2, "save_steps": 0, "eval_steps": 0, "eval_prompts": 1}
    for name, switch in (("plain", False), ("checkpointed", True)):
        kept.append(0)
        run = trainer(settings(tmp_path / name, gradient_checkpointing=switch, lora_r=lora_r, **short))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            run.train()
    assert lines(tmp_path / "plain") == lines(tmp_path / "checkpointed")
    assert kept[1] < kept[0]


def test_lora_trains_the_adapter_alone(tmp_path: Path) -> None:
    from peft import PeftModel

    run = trainer(settings(tmp_path, lora_r=2, max_steps=2))
    base = {name: p.clone() for name, p in run.policy.named_parameters() if "lora" not in name}
    run.train()
    assert all(torch.equal(p, base[name]) for name, p in run.policy.named_parameters() if "lora" not in name)
    names = {name.split(".lora_")[0].rpartition(".")[2] for name, _ in run.policy.named_parameters() if "lora" in name}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    loaded = PeftModel.from_pretrained(
        tiny(vocab_size=7, mask_id=1, eos_id=0, max_length=32), tmp_path / "checkpoints" / "step-2" / "adapter"
    )
    trained = {name: p for name, p in run.policy.named_parameters() if "lora_B" in name}
    again = dict(loaded.named_parameters())
    assert trained
    assert all(p.abs().sum() > 0 and torch.equal(p, again[name]) for name, p in trained.items())
