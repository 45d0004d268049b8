"""If these fail, a run of supervised fine-tuning does not learn, or does not go on as it would have gone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import dmpo
from dmpo.evaluation.run_keys import keys_of_run
from dmpo.planning.plan import plan
from dmpo.storage.checkpoints import best_step
from tests.sft.problems import Doubles, settings, trainer
from tests.small_runs import lines


@pytest.fixture(autouse=True)
def _no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmpo.sft.plot_sft_run", lambda *arguments: None)  # takes longer than these runs


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 60 steps, with its figure."""
    folder = tmp_path_factory.mktemp("learned")
    changes: dict[str, Any] = {"max_steps": 60, "eval_steps": 30, "save_steps": 30, "save_total_limit": 3}
    run = trainer(settings(folder, learning_rate=1e-2, batch_size=12, micro_batch_size=12, **changes))
    run.train()
    return folder


def test_a_run_learns_the_answers(learned: Path) -> None:
    summary = json.loads((learned / "summary.json").read_text())
    assert summary["held_out_loss_after"] < 0.6 * summary["held_out_loss_before"]
    assert summary["greedy_accuracy_after"] >= 0.75 > summary["greedy_accuracy_before"]
    assert summary["epochs"] == 60
    assert (learned / "training.png").stat().st_size > 10_000
    metrics = lines(learned)
    assert [line["step"] for line in metrics if "held_out_loss" in line] == [30, 60]
    assert {"loss", "masked", "learning_rate", "grad_norm"} <= metrics[0].keys()
    held_out = lines(learned, "held_out.jsonl")
    assert {line["split"] for line in held_out} == {"validation", "test"}


def test_the_folder_of_a_run_is_read_by_the_other_commands(learned: Path) -> None:
    keys = keys_of_run(None, [f"model={learned}"])
    assert "gen_length=[4]" in keys
    model = dmpo.load_model(learned / "checkpoints" / "step-60" / "model")
    assert model.config.mask_token_id == 1
    assert best_step(learned, [30, 60]) in (30, 60)


def test_a_run_without_accuracies_keeps_the_step_of_the_smallest_loss(tmp_path: Path) -> None:
    values = [{"step": step, "held_out_loss": loss} for step, loss in ((1, 0.5), (2, 0.25), (3, 0.75))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in values))
    assert best_step(tmp_path, [1, 2, 3]) == 2
    assert best_step(tmp_path, [1, 3]) == 1


@pytest.mark.parametrize("lora_r", [0, 2])
def test_a_resumed_run_is_the_run_bit_for_bit(lora_r: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"lora_r": lora_r, "widen_attention_steps": 3}
    trainer(settings(tmp_path / "whole", **options)).train()
    trainer(settings(tmp_path / "parts", **options | {"max_steps": 3})).train()
    trainer(settings(tmp_path / "parts", **options, resume=True)).train()
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
    assert [line["attention_reach"] for line in lines(tmp_path / "parts")][:4] == [0, 1 / 3, 2 / 3, 1]
    folder = "model/model.safetensors" if not lora_r else "adapter/adapter_model.safetensors"
    whole, parts = (load_file(tmp_path / run / "checkpoints" / "step-6" / folder) for run in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_lora_trains_the_adapter_alone(tmp_path: Path) -> None:
    run = trainer(settings(tmp_path, lora_r=2, max_steps=2, eval_steps=0))
    before = {name: p.detach().clone() for name, p in run.policy.named_parameters()}
    run.train()
    changed = {name for name, p in run.policy.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)


def test_the_gradient_does_not_depend_on_the_micro_batch(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"max_steps": 3, "eval_steps": 0, "eos_padding": "none", "widen_attention_steps": 3}
    for size in (1, 0):
        trainer(settings(tmp_path / str(size), micro_batch_size=size, **keys)).train()
    one, all_rows = ([line["loss"] for line in lines(tmp_path / size)] for size in ("1", "0"))
    assert one == pytest.approx(all_rows, rel=1e-5)


def test_evaluations_see_the_whole_row(tmp_path: Path) -> None:
    summaries = [
        trainer(settings(tmp_path / str(steps), max_steps=1, eval_steps=0, widen_attention_steps=steps)).train()
        for steps in (0, 3)
    ]
    assert summaries[0]["held_out_loss_before"] == summaries[1]["held_out_loss_before"]
    assert lines(tmp_path / "0")[0]["loss"] != lines(tmp_path / "3")[0]["loss"]


def test_an_epoch_shows_each_row_once(tmp_path: Path) -> None:
    run = trainer(settings(tmp_path, batch_size=6))
    orders: list[list[Any]] = [[], []]
    for step in range(4):
        rows, numbers = run.demonstrations.of_step(step)
        assert numbers == list(range(6 * step, 6 * step + 6))
        orders[step // 2] += [(tuple(row.prompt), tuple(row.answer)) for row in rows]
    assert all(len(set(order)) == 12 for order in orders)
    assert orders[0] != orders[1]


def test_a_plan_has_no_reference(tmp_path: Path) -> None:
    config = settings(tmp_path)
    run = trainer(config)
    planned = plan(config, run.policy.config, device="cpu")
    assert all(phase["reference"] == 0 < phase["weights"] for phase in planned.phases.values())
    more = plan(settings(tmp_path, micro_batch_size=6), run.policy.config, device="cpu")
    assert more.peak("update") > planned.peak("update")
    budget = trainer(settings(tmp_path / "other", memory_budget=10.0))
    assert budget.config.micro_batch_size == 6


class Silent(Doubles):
    judges = False


def test_a_task_that_cannot_judge_has_a_loss_alone(tmp_path: Path) -> None:
    summary = trainer(settings(tmp_path, max_steps=2), Silent()).train()
    assert "greedy_accuracy_after" not in summary
    assert summary["held_out_loss_after"] > 0
    assert lines(tmp_path)[-1]["held_out_loss"] > 0
