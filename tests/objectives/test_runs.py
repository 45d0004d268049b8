"""If these fail, a run with a published objective does not learn, is another run once resumed, or misreports itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dmpo.objectives import OBJECTIVES
from dmpo.objectives.diffu_grpo import CUR, REF
from dmpo.objectives.one_step import one_step_log_probs
from dmpo.pretrain import character_tokenizer
from dmpo.rollouts.buffer import ReplayBuffer
from dmpo.rollouts.policy import ReferencePolicy
from dmpo.run.skipping import write_evidence
from tests import devices
from tests.rollout_problems import a_round, config, model
from tests.small_runs import lines, settings, trainer

pytestmark = pytest.mark.usefixtures("device", "unwritten_is_nan")
BRIEF: dict[str, Any] = {"eval_steps": 0, "save_steps": 0, "eval_prompts": 1}


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmpo.trainer.plot_run", lambda *arguments: None)


@pytest.mark.parametrize("loss", ["wd1", "diffu_grpo"])
def test_it_learns(tmp_path: Path, loss: Any) -> None:
    whole: dict[str, Any] = {"micro_batch_size": 0, "rollout_batch_size": 64, "num_prompts": 8, "num_generations": 8}
    changes = {"max_steps": 24, "learning_rate": 5e-3, "replicates": 1, **whole, **BRIEF}
    trainer(settings(tmp_path, loss=loss, **changes)).train()
    rewards = [line["reward"] for line in lines(tmp_path)]
    # Of 64 completions, whose tokens may depend on each other, a mean has a standard error of at most 0.5 / 64^0.5 =
    # 0.06; both sides average two rounds, so their difference has at most that, too.
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 0.2


def test_resume_equals_an_undisturbed_run(tmp_path: Path) -> None:
    """Stopped amid a round, with older rounds in the buffer and a reference of its own."""
    options: dict[str, Any] = {"loss": "diffu_grpo", "lora_r": 2, "replicates": 3, "gradient_steps": 2, "max_steps": 4}
    options |= {"buffer_rounds": 2, "reference_refresh_steps": 2, **BRIEF}
    trainer(settings(tmp_path / "whole", **options)).train()
    trainer(settings(tmp_path / "stopped", **{**options, "max_steps": 3})).train()
    trainer(settings(tmp_path / "stopped", resume=True, **options)).train()
    assert lines(tmp_path / "whole") == lines(tmp_path / "stopped")
    name = "checkpoints/step-4/adapter/adapter_model.safetensors"
    a, b = (load_file(tmp_path / run / name) for run in ("whole", "stopped"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_what_a_step_says_of_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options: dict[str, Any] = {"gradient_steps": 4, "max_steps": 4, "learning_rate": 3e-2, **BRIEF}
    trainer(settings(tmp_path / "run", loss="diffu_grpo", reference_refresh_steps=2, **options)).train()
    assert caplog.messages == ["loss diffu_grpo does not read alpha=0.2"]
    steps = lines(tmp_path / "run")
    assert all(line["coeff"] is None for line in steps)
    assert steps[0]["clip_share"] == 0
    assert [line["kl"] < 1e-9 for line in steps] == [True, False, True, False], "just refreshed, it is its reference"
    assert steps[3]["clip_share"] > 0, "the reference is new, what ratios compare with is not"
    trainer(settings(tmp_path / "free", loss="diffu_grpo", kl_beta=0.0, **options)).train()
    assert [line["kl"] for line in lines(tmp_path / "free")] == [None] * 4
    trainer(settings(tmp_path / "wd1", loss="wd1", **options)).train()
    for line in lines(tmp_path / "wd1"):
        assert line["coeff"] is None
        assert 0.25 <= line["ess"] <= 1
        assert "kl" not in line


def test_a_round_keeps_its_scores_and_a_new_reference_has_its_own(tmp_path: Path) -> None:
    policy, options = model(), config("topk", loss="diffu_grpo", reference_refresh_steps=1)
    reference, buffer = ReferencePolicy(policy, refreshable=True), ReplayBuffer(2, seed=0)
    start = a_round(policy, reference, options)
    scores = one_step_log_probs(policy, start.completions, start.row_ids, options)
    assert torch.equal(start.scores[CUR], scores)
    assert torch.equal(start.scores[REF], scores)
    write_evidence(tmp_path, 0, start, character_tokenizer(), options)
    assert torch.equal(load_file(tmp_path / "rank-0.safetensors")[REF], scores.cpu())
    buffer.add(start)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    buffer.replace_reference(devices.accelerator(), policy, OBJECTIVES["diffu_grpo"], options)
    kept = buffer.batch(0)
    assert torch.equal(kept.scores[CUR], scores)
    now = one_step_log_probs(policy, start.completions, start.row_ids, options)
    assert torch.equal(kept.scores[REF], now)
    assert not torch.equal(now, scores)
    plain = a_round(policy, reference, config("topk"))
    assert plain.scores == {}
