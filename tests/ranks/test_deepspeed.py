"""If these fail, DeepSpeed takes another step than we do, or a run under it cannot go on. On CPUs, over gloo."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from dmpo import DMPOConfig
from dmpo.distributed import zero
from dmpo.objectives.gradient import accumulate_gradient
from tests.ranks.gradient_problems import SIZE, batch, policy
from tests.ranks.launch import Sharding, on_ranks, results
from tests.ranks.training_run import train
from tests.small_runs import lines

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")

BF16: dict[str, Any] = {"dtype": "bfloat16", "lora_r": 2}


def loss_and_norm() -> tuple[float, float]:
    accelerator = Accelerator()
    zero.configure(accelerator, dtype="bfloat16", max_grad_norm=100.0)
    inner = policy(lora=True).bfloat16()
    trainable = [p for p in inner.parameters() if p.requires_grad]
    model, _ = accelerator.prepare(inner, torch.optim.AdamW(trainable))
    options: dict[str, Any] = {"model": "", "task": "", "output_dir": "", "num_generations": SIZE, "alpha": 0.5}
    config = DMPOConfig(**options, micro_batch_size=7)
    data = batch(accelerator.process_index, accelerator.num_processes)
    loss = accumulate_gradient(accelerator, model, inner, data, config, step=5).loss
    return loss, float(accelerator.clip_grad_norm_(trainable, 100.0))


@pytest.mark.parametrize("sharding", ["zero2", "zero3"])
def test_gradient_is_ours(sharding: Sharding, tmp_path: Path) -> None:
    """Micro-batches add up, ranks are averaged: in bfloat16, so to a few per cent."""
    (alone,) = results(on_ranks(1, loss_and_norm, folder=tmp_path))
    for found in results(on_ranks(2, loss_and_norm, folder=tmp_path, sharding=sharding)):
        assert found[0] == pytest.approx(alone[0], abs=0.002)  # a difference of sums
        assert found[1] == pytest.approx(alone[1], rel=0.05)


@pytest.mark.parametrize("sharding", ["zero2", "zero3"])
def test_resumed_run_is_the_undisturbed_one(sharding: Sharding, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    results(on_ranks(2, train, one, BF16, folder=tmp_path, sharding=sharding))
    results(on_ranks(2, train, two, BF16 | {"max_steps": 3}, folder=tmp_path, sharding=sharding))
    results(on_ranks(2, train, two, BF16 | {"resume": True}, folder=tmp_path, sharding=sharding))
    assert lines(one) == lines(two)
    assert lines(one)[3]["learning_rate"] == 4 * lines(one)[0]["learning_rate"]


def test_a_dtype_that_deepspeed_would_change_is_refused(tmp_path: Path) -> None:
    for rank in on_ranks(2, train, tmp_path / "run", BF16 | {"dtype": "float32"}, folder=tmp_path, sharding="zero2"):
        assert rank.error is not None
        assert "dtype must be bfloat16, because DeepSpeed was launched with mixed_precision bf16" in rank.error
        assert "got float32" in rank.error
