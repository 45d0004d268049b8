"""If these fail, a rank without a group to learn from, or without a prompt to draw anew, hangs or changes the run."""

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
from tests.ranks.training_run import train
from tests.small_runs import lines

LOSSES: dict[str, dict[str, Any]] = {
    "wdce": {"micro_batch_size": 7},
    "tb": {"loss": "tb", "micro_batch_size": 11},
    "diffu_grpo": {"loss": "diffu_grpo", "replicates": 3, "micro_batch_size": 7},
}
RUN: dict[str, Any] = {"num_generations": 2, "gradient_steps": 1, "skip_equal_rewards": True, "resample_prompts": 2}


def gradients_and_run(folder: Path) -> dict[str, tuple[float, list[Tensor]]]:
    """Loss and gradient where no group of the first of three ranks is left; then a run of 6 completions a round."""
    accelerator = Accelerator()
    data = batch(accelerator.process_index, accelerator.num_processes)
    data.rewards[:3] = 0.5
    measured = {}
    inner = policy(lora=False)
    optimizer = torch.optim.AdamW(inner.parameters())
    model, optimizer = accelerator.prepare(inner, optimizer)
    for name, changes in LOSSES.items():
        options: dict[str, Any] = {"model": "", "task": "", "output_dir": "", "alpha": 0.5, **changes}
        config = DMPOConfig(**options, num_generations=SIZE, skip_equal_rewards=True)
        result = accumulate_gradient(accelerator, model, inner, data, config, step=5)
        assert result.report["left_out"] + result.report["left_out_equal"] == 3
        gradients = [p.grad for p in inner.parameters() if p.grad is not None]
        measured[name] = result.loss, [gradient.clone() for gradient in gradients]
        optimizer.zero_grad()
    train(folder, {"lora_r": 2, "log_completions": 6, **RUN})
    return measured


def test_three_ranks_are_one(tmp_path: Path) -> None:
    (one,) = results(on_ranks(1, gradients_and_run, tmp_path / "one", folder=tmp_path / "alone"))
    for of_rank in results(on_ranks(3, gradients_and_run, tmp_path / "three", folder=tmp_path / "ranks")):
        for name, (loss, gradients) in of_rank.items():
            wanted, wanted_gradients = one[name]
            assert loss == pytest.approx(wanted, rel=1e-10), name
            for gradient, reference in zip(gradients, wanted_gradients, strict=True):
                assert (gradient - reference).abs().max() < 1e-10 * reference.abs().max(), name
    alone, ranks = lines(tmp_path / "one"), lines(tmp_path / "three")
    assert any(0 < line["prompts_resampled"] < 3 for line in alone), "fewer completions than ranks are drawn anew"
    for a, b in zip(alone, ranks, strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - {"entropy", "forwards", "row_forwards", "tokens_per_forward", "positions"}:
            assert b[key] == pytest.approx(a[key], rel=1e-3, abs=1e-5), key
    texts = [
        {line["row"]: (line["prompt"], line["completion"], line["reward"], line["rewards"]) for line in of_run}
        for of_run in (lines(tmp_path / run, "completions.jsonl") for run in ("one", "three"))
    ]
    shared = texts[0].keys() & texts[1].keys()
    assert {row: texts[0][row] for row in shared} == {row: texts[1][row] for row in shared}
    assert any(row // 6 % 3 for row in shared), "of a further draw"
