"""If these fail, the embedded models' tables do not say what their runs measured."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from benchmarks import first_light
from benchmarks.harness.provenance import RESULTS
from benchmarks.readme import TABLES
from benchmarks.runs.embedded_models import KEYS, different_rows, markdown
from dmpo.config import DMPOConfig
from dmpo.config.files import load_config
from dmpo.models.files import embedded_models
from dmpo.tasks import load_task


def accuracies(least: float) -> dict[str, Any]:
    return {key: least + 0.01 * place for place, key in enumerate(KEYS[:-1])} | {"seconds": 10.0}


def results(rows: int, different: int | None) -> dict[str, Any]:
    """Every accuracy is another."""
    runs = [accuracies(0.2 * seed) | {"seed": seed, "test_rows": rows} for seed in (1, 3)]
    mean = accuracies(0.4)
    found = {"runs": runs, "mean": mean, "cores": 2, "torch": "2", "date": "2026-01-01"}
    return found if different is None else found | {"different_test_rows": different}


def test_the_table() -> None:
    lines = markdown(results(8, None)).splitlines()
    assert lines[0].startswith("| 8 held-out puzzles | sampled, before |")
    assert lines[2:5] == [
        "| seed 1 | 20.0% | 21.0% | 22.0% | 23.0% | 10 |",
        "| seed 3 | 60.0% | 61.0% | 62.0% | 63.0% | 10 |",
        "| **mean of 2 seeds** | 40.0% | 41.0% | 42.0% | 43.0% | 10 |",
    ]
    assert lines[-1] == "2 CPU cores, torch 2, 2026-01-01."


def test_repeated_puzzles_are_reported() -> None:
    assert markdown(results(8, 5)).endswith("2026-01-01. 5 of the 8 puzzles are different.")
    assert markdown(results(8, 8)).endswith("2026-01-01.")


def test_runs_side_by_side_are_reported() -> None:
    assert "seconds" not in markdown(results(8, 8) | {"jobs": 1}).splitlines()[-1]
    assert markdown(results(8, 8) | {"jobs": 3}).endswith(
        "3 runs side by side: the machine was busy, so the seconds are too high."
    )


def test_different_rows() -> None:
    config = load_config(DMPOConfig, "countdown-tiny")
    task = load_task(config.task, **config.task_options)
    rows = [task.row("test", index) for index in range(512)]
    puzzles = {(*sorted(row["numbers"]), row["target"]) for row in rows}
    assert different_rows("countdown-tiny", 512) == len(puzzles) >= 100
    assert len({row["prompt"] for row in rows}) > len(puzzles), "the order of the numbers makes no other puzzle"
    assert different_rows("sudoku-tiny", 64) == 64


def test_a_config_is_chosen_by_its_option_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_light, "measure", lambda *_: pytest.fail("it trains another config"))
    with pytest.raises(SystemExit):
        first_light.main(["countdown-tiny", "--seeds", "0"])
    assert "wanted key=value, got 'countdown-tiny'; a config is chosen by --config" in capsys.readouterr().err


@pytest.mark.parametrize("name", embedded_models())
def test_the_command_beside_a_table_is_the_command_that_made_it(name: str) -> None:
    page = next(page for page, tables in TABLES.items() if name in tables).read_text()
    command = json.loads((RESULTS / name / "first_light.json").read_text())["command"]
    assert f"`{command}` makes this table again" in page


@pytest.mark.parametrize("name", embedded_models())
def test_the_committed_runs(name: str) -> None:
    made = json.loads((RESULTS / name / "first_light.json").read_text())
    assert (RESULTS / name / "training.png").is_file()
    asked = re.findall(r"\d+", made["command"].partition("--seeds")[2])
    assert [run["seed"] for run in made["runs"]] == [int(seed) for seed in asked]
    assert {run["test_rows"] for run in made["runs"]} == {load_config(DMPOConfig, name).eval_prompts}
    for key in KEYS:
        assert made["mean"][key] == pytest.approx(sum(run[key] for run in made["runs"]) / len(made["runs"]))
