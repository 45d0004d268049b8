"""If these fail, a schedule means another learning rate than in transformers, or a resumed run has another rate."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_scheduler

from dmpo.run.learning_rate import learning_rate
from tests.run.stopping import StopsAt
from tests.small_runs import lines, settings, trainer

KINDS = ["constant", "linear", "cosine"]


@pytest.mark.parametrize("kind", KINDS)
@given(warmup=st.integers(0, 12), total=st.integers(1, 40))
def test_rates_are_those_of_transformers(kind: str, warmup: int, total: int) -> None:
    config = settings(Path("run"), lr_scheduler_type=kind, warmup_steps=warmup, max_steps=total, learning_rate=3e-4)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    name = "constant_with_warmup" if kind == "constant" else kind
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=total)
    rates = []  # of the first total + 1 steps
    for _ in range(total + 1):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    for step in range(total):
        ahead = step < min(warmup, total)
        wanted = rates[step + 1] if ahead and step + 1 < warmup else 3e-4 if ahead else rates[step]
        assert learning_rate(config, step) == pytest.approx(wanted, rel=1e-14, abs=1e-20)
    assert learning_rate(config, 0) > 0


def test_a_name_of_transformers_for_the_constant_rate() -> None:
    config = settings(Path("run"), lr_scheduler_type="constant_with_warmup")
    assert config.lr_scheduler_type == "constant"
    with pytest.raises(ValueError, match=r"'lr_scheduler_type': Input should be 'constant', .* got 'polynomial'"):
        settings(Path("run"), lr_scheduler_type="polynomial")


def test_a_resumed_run_has_the_rates_of_the_whole_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The first part ends where a callback stops it, so its max_steps is the same."""
    options: dict[str, Any] = {"lr_scheduler_type": "cosine", "warmup_steps": 2, "eval_steps": 0, "eval_prompts": 1}
    trainer(settings(tmp_path / "whole", **options)).train()
    trainer(settings(tmp_path / "parts", **options), callbacks=[StopsAt(3)]).train()
    trainer(settings(tmp_path / "parts", resume=True, **options)).train()
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    rates = [line["learning_rate"] for line in lines(tmp_path / "whole")]
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3 * 0.8535533905932737, 5e-4, 1e-3 * 0.14644660940672624])
    with caplog.at_level(logging.WARNING):
        trainer(settings(tmp_path / "parts", resume=True, max_steps=8, **options))
    assert "max_steps was 6 and is now 8: the rest of the run follows the cosine curve of the new" in caplog.text
