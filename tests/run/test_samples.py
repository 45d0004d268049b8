"""If these fail, people read completions beside rewards or weights that are not theirs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dmpo import importance_weights
from dmpo.config.decoding import DECODERS, decoding_options
from dmpo.decoding import generate
from dmpo.pretrain import character_tokenizer
from dmpo.randomness import derive_key
from dmpo.rollouts.drawn_rows import rows_to_log
from dmpo.rollouts.policy import ReferencePolicy
from dmpo.run.samples import sample_table, send_table
from tests.rollout_problems import a_round, config, model
from tests.small_runs import CountOnes, lines, names, settings, trainer


def test_rows_carry_their_own_numbers() -> None:
    policy, options = model(), config("topk", log_completions=6)
    batch = a_round(policy, ReferencePolicy(policy), options, round_index=2)
    table = sample_table(batch, character_tokenizer(), CountOnes(), options, step=7)
    assert [row["row"] for row in table] == [32, 33, 34, 35, 36, 37], "a whole group of the round's four, and a half"
    weights = importance_weights(batch.rewards, batch.log_prob_ref, batch.log_prob_cur, alpha=options.alpha).positive
    ratios = (batch.log_prob_cur - batch.log_prob_ref).flatten()
    prompts = character_tokenizer().batch_decode(batch.completions.prompt_ids)
    for row in table:
        index = row["row"] - 32
        assert row["reward"] == row["completion"].count("1") / 4 == batch.rewards.flatten()[index]
        assert row["weight"] == weights.flatten()[index]
        assert row["prompt"] == prompts[index]
        assert row["log_ratio"] == ratios[index]
        assert (row["step"], row["group"]) == (7, row["row"] // 4)


@pytest.mark.parametrize("decoder", [*DECODERS])
def test_how_each_token_was_drawn(decoder: str) -> None:
    """What `generate` says of these rows: of tokens that wino revoked the last draw, and -1 after an EOS."""
    policy, options = model(), config(decoder, log_completions=16, early_stop=True, rollout_batch_size=6, seed=2)
    batch = a_round(policy, ReferencePolicy(policy), options)
    completions, tokenizer = batch.completions, character_tokenizer()
    drawing = decoding_options(options, seed=derive_key(options.seed, "rollout"))
    prompts: dict[str, Any] = {"attention_mask": completions.prompt_mask, "row_ids": batch.row_ids}
    drawn = generate(policy, completions.prompt_ids, drawing, **prompts)
    table = sample_table(batch, tokenizer, CountOnes(), options, step=1)
    assert sorted(row["row"] for row in table) == batch.row_ids.tolist()
    for row in table:
        place = row["row"] - 16
        assert row["order"] == drawn.order[place].tolist()
        assert row["log_probs"] == pytest.approx(drawn.log_probs[place].tolist(), abs=6e-5)
        assert row["tokens"] == [tokenizer.decode(token) for token in completions.tokens[place].tolist()]
    after = [row for row in table if -1 in row["order"]]
    assert after, "some rows end before the last token"
    assert all(row["tokens"][i] == "<eos>" for row in after for i, step in enumerate(row["order"]) if step < 0)


@pytest.mark.parametrize(
    ("total", "most", "rounds"),
    [
        (12, 4, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [0, 1, 2, 3]]),
        (12, 3, [[0, 1, 2], [4, 5, 6]]),
        (14, 6, [[0, 1, 2, 3, 4, 5], [8, 9, 10, 11, 0, 1]]),  # the last group is on two ranks
        (12, 99, [[*range(12)], [*range(12)]]),
        (3, 2, [[0, 1], [0, 1]]),  # a rank without a whole group
        (12, 0, [[], []]),
    ],
)
def test_another_group_each_round(total: int, most: int, rounds: list[list[int]]) -> None:
    assert [rows_to_log(total, 4, most, index) for index in range(len(rounds))] == rounds


def test_a_longer_run_has_one_evaluation_at_its_end(tmp_path: Path) -> None:
    for steps in (1, 2):
        trainer(settings(tmp_path, max_steps=steps, resume=steps > 1, eval_steps=0, log_completions=1)).train()
    assert [(line["step"], line["split"]) for line in lines(tmp_path, "held_out.jsonl")] == [(0, "test"), (2, "test")]


def test_a_run_writes_them_once_a_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmpo.trainer.plot_run", lambda *arguments: None)
    run = tmp_path / "run"
    trainer(settings(run, max_steps=4, eval_steps=0, log_completions=3, report_to=["tensorboard"])).train()
    rows = lines(run, "completions.jsonl")
    assert [row["step"] for row in rows] == [1] * 3 + [3] * 3
    assert [row["group"] for row in rows] == [0] * 3 + [5] * 3, "the first prompt of a round, the second of the next"
    assert [row["index"] for row in lines(run, "held_out.jsonl")] == [0, 1, 2] * 2
    events = EventAccumulator(str(next(run.rglob("events.out.tfevents*")).parent)).Reload()
    losses = [event.value for event in events.Scalars("loss")]
    assert losses == pytest.approx([line["loss"] for line in lines(run)], rel=1e-6)
    text = events.Tensors("completions/text_summary")
    assert [event.step for event in text] == [1, 3]
    shown = text[1].tensor_proto.string_val[0].decode()
    for row in rows[3:]:
        cells = [row[name] for name in ("row", "group", "prompt", "completion", "reward", "weight", "log_ratio")]
        assert f"| {' | '.join(map(str, cells))} |\n" in f"{shown}\n"
    trainer(settings(tmp_path / "none", max_steps=2, eval_steps=0, log_completions=0)).train()
    assert not {"completions.jsonl", "held_out.jsonl"} & set(names(tmp_path / "none"))


def test_wandb_gets_a_table() -> None:
    """Only its call: wandb itself needs an account."""
    calls: list[Any] = []
    tracker = SimpleNamespace(name="wandb", log_table=lambda *names, **values: calls.append((names, values)))
    main = SimpleNamespace(is_main_process=True, trackers=[tracker])
    row = {"step": 3, "row": 8, "prompt": "p|q", "completion": "a\nb", "reward": 1.0, "weight": 0.25}
    row |= {"tokens": ["a\n", "b"], "order": [1, 0], "log_probs": [-0.5, 0.0]}
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
