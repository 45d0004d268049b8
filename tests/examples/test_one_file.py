"""If this fails, examples/one_file.py is another algorithm than the one that `DMPOTrainer` runs."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from dmpo import DMPOConfig, DMPOTrainer, load_model
from dmpo.config import load_config

EXAMPLE = Path(__file__).parents[2] / "examples" / "one_file.py"
PROMPTS, GROUP, STEPS = 3, 4, 4
CHANGES = {"num_prompts": PROMPTS, "num_generations": GROUP, "max_steps": STEPS, "seed": 3}


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the file defines."""
    return runpy.run_path(str(EXAMPLE))


def logged(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_its_settings_are_the_shipped_configs(names: dict[str, Any]) -> None:
    shipped, own = load_config(DMPOConfig, "sudoku-tiny"), vars(names["Settings"]())
    fewer = ("num_prompts", "max_steps")
    assert {key: value for key, value in own.items() if value != getattr(shipped, key)}.keys() == set(fewer)
    assert all(own[key] < getattr(shipped, key) for key in fewer)


def test_its_steps_are_the_trainers(
    names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dmpo.trainer.plot_run", lambda *_: None)
    quick = {"eval_prompts": 2, "eval_steps": 0, "save_steps": 0, "log_completions": PROMPTS * GROUP}
    overrides = [f"{key}={value}" for key, value in {**CHANGES, **quick, "output_dir": tmp_path}.items()]
    trainer = DMPOTrainer(load_config(DMPOConfig, "sudoku-tiny", overrides))
    trainer.train()
    steps, completions = logged(tmp_path, "metrics.jsonl"), logged(tmp_path, "completions.jsonl")

    model = load_model("sudoku-tiny")
    history = names["train"](model, names["Settings"](**CHANGES))

    assert len(steps) == len(history) == STEPS
    for line, (batch, loss, norm) in zip(steps, history, strict=True):
        assert loss == pytest.approx(line["loss"], abs=1e-5)  # a sum of weighted terms of either sign, each about 1
        assert norm == pytest.approx(line["grad_norm"], rel=1e-4)
        assert float(batch.rewards.mean()) == pytest.approx(line["reward"], rel=1e-6)
        assert float(batch.weights.ess.mean()) == pytest.approx(line["ess"], rel=1e-4)
    batches = [batch for batch, _, _ in history[:: names["Settings"].gradient_steps]]
    weights = torch.cat([batch.weights.positive.flatten() for batch in batches])
    rows = torch.cat([batch.row_ids for batch in batches])
    assert [line["row"] for line in completions] == rows.tolist()
    torch.testing.assert_close(weights, torch.tensor([line["weight"] for line in completions]), rtol=1e-4, atol=1e-6)
    for name, weight in trainer.policy.state_dict().items():  # AdamW divides by a root: small gradients' rounding shows
        torch.testing.assert_close(model.state_dict()[name], weight, rtol=0, atol=STEPS * 1e-6)
    assert capsys.readouterr().out.count("effective share") == STEPS
