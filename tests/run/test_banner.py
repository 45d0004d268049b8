"""If these fail, the banner of a run tells something else than the run does, or ends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dmpo.models import load_model
from dmpo.models.lora import add_lora
from dmpo.planning.plan import GB, plan
from dmpo.run import banner as banners
from dmpo.run.banner import banner
from dmpo.run.report import Reporter
from dmpo.tasks import load_task
from tests.small_runs import CountOnes, settings


class Accelerator:
    """What the banner reads of an accelerator."""

    num_processes = 1
    device = torch.device("cpu")
    distributed_type = "NO"


class FiniteTask(CountOnes):
    def size(self, split: str) -> int | None:
        return {"train": 100, "test": 5}.get(split)


def lines(policy: Any, task: Any, step: int = 0, **changes: Any) -> dict[str, str]:
    accelerator: Any = Accelerator()
    return dict(banner(settings(Path("out"), **changes), accelerator, policy, task, step))


def test_the_lines_of_a_run_with_adapters() -> None:
    policy: Any = add_lora(load_model("sudoku-tiny"), rank=2, alpha=4, dropout=0.0)
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    shown = lines(policy, FiniteTask(), 2, lora_r=2, max_steps=7, gradient_steps=2)
    assert shown["model"].startswith(
        f"tiny (llama, 4 layers, float32); {trained:,} parameters trained (LoRA of rank 2)"
    )
    assert shown["model"].endswith(", 658,560 frozen")
    drawn = "100 training rows, the run draws 16 prompts, 0.16 passes; an evaluation takes 5 held-out rows"
    assert shown["task"] == f"sudoku4: {drawn}"
    assert shown["ranks"].startswith("one rank, not sharded, on cpu, ")
    assert "precision float32" in shown["ranks"]
    assert shown["steps"].startswith("7 gradient steps in 4 rounds of 2; a round has 4 prompts × 4 completions")
    assert shown["steps"].endswith("all rounds 64; 2 are taken already")
    config: Any = settings(Path("out"), lora_r=2)
    planned = plan(config, load_model("sudoku-tiny").config, device="cpu")
    peak = max(map(planned.peak, planned.phases)) / GB
    assert shown["memory"].startswith(f"about {peak:.3g} GB at the peak (")
    assert "not known" not in " ".join(shown.values())


def test_a_task_without_end() -> None:
    shown = lines(load_model("sudoku-tiny"), load_task("sudoku4"), lora_r=0)
    assert shown["task"] == "sudoku4: rows without end, the run draws 12 prompts; an evaluation takes 8 held-out rows"
    assert "658,560 parameters trained (all weights, beside a frozen copy), 0 frozen" in shown["model"]


def test_it_never_ends_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(CountOnes):
        def size(self, split: str) -> int | None:
            raise RuntimeError("no size today")

    monkeypatch.setattr(banners, "plan", lambda *a, **k: 1 / 0)
    shown = lines(torch.nn.Linear(2, 2), Broken())
    assert shown["task"] == "not known (RuntimeError: no size today)"
    assert shown["memory"].startswith("not known (")
    assert shown["model"].startswith("not known (TypeError")


def test_long_lines_go_on_below_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(3)
    reporter.banner([("model", "x" * 10 + " [red] " + "y" * 200), ("task", "z")])
    assert capsys.readouterr().out == f"model    {'x' * 10} [red] {'y' * 200}\ntask     z\n", "no width in a pipe"
    reporter.console.width = 30
    reporter.banner([("model", "one two three four five six seven")])
    assert capsys.readouterr().out == "model    one two three four\n         five six seven\n"
