"""If these fail, a file of examples/ does not run, or does not do what it says."""

from __future__ import annotations

import ast
import json
import re
import runpy
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where examples make their folders. A script's own folder is among those that Python imports from.

    Runs draw no plot: that takes longer than all else they do here.
    """
    monkeypatch.setattr("dmpo.trainer.plot_run", lambda *_: None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield tmp_path
    for path in EXAMPLES.glob("*.py"):
        sys.modules.pop(path.stem, None)


def run(name: str) -> dict[str, Any]:
    """What `python examples/NAME.py` does; its global names."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def steps(folder: Path) -> list[dict[str, Any]]:
    """The metrics of the one run in a folder."""
    (path,) = folder.glob("*/metrics.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_own_reward_rises(folder: Path) -> None:
    fours = run("own_reward")["fours"]
    assert fours(["4444" * 4, "1234" * 4, ""], puzzle=["", "", ""]) == [1.0, 0.25, 0.0]
    lines = steps(folder)
    assert len(lines) == 8
    assert lines[0]["reward"] == pytest.approx(0.25, abs=0.05)  # a right grid has four of each digit
    assert lines[-1]["reward"] > lines[0]["reward"] + 0.02


def test_own_task_is_trained_on(folder: Path) -> None:
    task = run("own_task")["SortDigits"](8)
    row = task.row("train", 0)
    assert task.solved(row["answer"], row)
    assert task.reward([row["answer"], ""], answer=[row["answer"]] * 2) == [1.0, 0.0]
    splits = [{task.row(split, index)["prompt"] for index in range(50)} for split in ("train", "validation", "test")]
    assert len(set.union(*splits)) == sum(map(len, splits))
    lines = steps(folder)
    assert len(lines) == 4
    assert all(0 < line["reward"] < 1 and line["grad_norm"] > 0 for line in lines)


def test_own_objective_weighs_the_better_half(folder: Path) -> None:
    run("own_objective")
    lines = steps(folder)
    assert len(lines) == 8
    assert all(0.5 <= line["ess"] <= 1 and line["grad_norm"] > 0 for line in lines)


def test_plain_loop_reaches_its_reward(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = run("plain_pytorch_loop")["history"]
    assert sum(history[-5:]) / 5 > 0.9 > 0.6 > sum(history[:5]) / 5
    assert "of the last 5" in capsys.readouterr().out


def test_remote_model_learns_by_either_loss(folder: Path) -> None:
    names = run("remote_code_model")  # holds both losses equal at every step
    assert names["before"] == pytest.approx(1 / 8, abs=0.05)
    assert names["after"] > 0.3


def test_transformers_trainer_takes_the_mean_over_accumulated_batches(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = runpy.run_path(str(EXAMPLES / "transformers_trainer.py"))
    kind = names["DMPOLossTrainer"]
    batches: list[tuple[int, Any, float]] = []

    def compute_loss(self: Any, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        loss = original(self, model, inputs, *args, **kwargs)
        batches.append((self.state.global_step, inputs["weights"], loss.item()))
        return loss

    original = kind.compute_loss
    monkeypatch.setattr(kind, "compute_loss", compute_loss)
    log = names["main"]().state.log_history
    logged = [line["loss"] for line in log if "loss" in line]
    assert [step for step, _, _ in batches] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert all(weights.shape == (2, 8) for _, weights, _ in batches)
    assert all(weights.sum(-1).tolist() == pytest.approx([1, 1]) for _, weights, _ in batches)
    means = [(batches[2 * step][2] + batches[2 * step + 1][2]) / 2 for step in range(4)]
    assert logged == pytest.approx(means, rel=1e-3, abs=1e-4)  # the log keeps four digits
    assert means[-1] < means[0]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_each_says_what_it_is_and_how_to_run_it(path: Path) -> None:
    page = ast.get_docstring(ast.parse(path.read_text()))
    assert page is not None
    assert f"    python examples/{path.name}\n" in page
    tests = "".join(test.read_text() for test in Path(__file__).parent.glob("test_*.py"))
    assert re.search(rf'"{path.stem}(\.py)?"', tests), "no test runs it"
