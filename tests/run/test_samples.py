"""If these fail, people read completions beside rewards or weights that are not theirs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dmpo import importance_weights
from dmpo.pretrain import character_tokenizer
from dmpo.rollouts.policy import ReferencePolicy
from dmpo.run.samples import sample_table, send_table
from tests.rollout_problems import a_round, config, model
from tests.small_runs import CountOnes, lines, settings, trainer


def test_rows_carry_their_own_numbers() -> None:
    policy, options = model(), config("topk", log_completions=5)
    batch = a_round(policy, ReferencePolicy(policy), options, round_index=2)
    table = sample_table(batch, character_tokenizer(), CountOnes(), options, step=7)
    assert [row["row"] for row in table] == [32, 35, 38, 41, 44], "evenly spaced over the round's 16"
    weights = importance_weights(batch.rewards, batch.log_prob_ref, batch.log_prob_cur, alpha=options.alpha).positive
    prompts = character_tokenizer().batch_decode(batch.completions.prompt_ids)
    for row in table:
        index = row["row"] - 32
        assert row["reward"] == row["completion"].count("1") / 4 == batch.rewards.flatten()[index]
        assert row["weight"] == weights.flatten()[index]
        assert row["prompt"] == prompts[index]
        assert row["step"] == 7


def test_a_run_writes_them_once_a_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmpo.trainer.plot_run", lambda *arguments: None)
    run = tmp_path / "run"
    trainer(settings(run, max_steps=4, eval_steps=0, log_completions=3, report_to=["tensorboard"])).train()
    rows = lines(run, "completions.jsonl")
    assert [row["step"] for row in rows] == [1] * 3 + [3] * 3
    events = EventAccumulator(str(next(run.rglob("events.out.tfevents*")).parent)).Reload()
    losses = [event.value for event in events.Scalars("loss")]
    assert losses == pytest.approx([line["loss"] for line in lines(run)], rel=1e-6)
    text = events.Tensors("completions/text_summary")
    assert [event.step for event in text] == [1, 3]
    shown = text[1].tensor_proto.string_val[0].decode()
    for row in rows[3:]:
        assert f"| {row['row']} | {row['prompt']} | {row['completion']} | {row['reward']} |" in shown
    trainer(settings(tmp_path / "none", max_steps=2, eval_steps=0, log_completions=0)).train()
    assert not (tmp_path / "none" / "completions.jsonl").exists()


def test_wandb_gets_a_table() -> None:
    """Only its call: wandb itself needs an account."""
    calls: list[Any] = []
    tracker = SimpleNamespace(name="wandb", log_table=lambda *names, **values: calls.append((names, values)))
    main = SimpleNamespace(is_main_process=True, trackers=[tracker])
    row = {"step": 3, "row": 8, "prompt": "p|q", "completion": "a\nb", "reward": 1.0, "weight": 0.25}
    accelerator: Any = main
    send_table(accelerator, [row], 3)
    (names, values), columns = calls[0], ["row", "prompt", "completion", "reward", "weight"]
    assert (names, values) == (
        ("completions",),
        {"columns": columns, "data": [[8, "p|q", "a\nb", 1.0, 0.25]], "step": 3},
    )
    other: Any = SimpleNamespace(is_main_process=False, trackers=[tracker])
    send_table(other, [row], 3)
    send_table(accelerator, [], 3)
    assert len(calls) == 1
    assert json.dumps(row)
