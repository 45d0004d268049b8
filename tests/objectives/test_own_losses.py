"""If these fail, a loss or a decoder that a config names as module:name trains otherwise, or its faults come late."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dmpo.planning.plan import plan
from tests.small_runs import lines, settings, trainer
from tests.tiny_models import tiny


def run(folder: Path, **changes: Any) -> list[dict[str, Any]]:
    config = settings(folder, max_steps=2, eval_steps=0, eval_prompts=1, save_steps=0, **changes)
    trainer(config).train()
    return lines(folder)


def test_a_run_with_own_names_is_the_run_with_the_names_of_the_package(tmp_path: Path) -> None:
    """The same loss and policy under other names, with a key that the loss of the package would refuse."""
    own = run(tmp_path / "own", loss="tests.own_names:LOSS", decoder="tests.own_names:topk", wd1_psi=2.0)
    assert own == run(tmp_path / "shipped")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "no_such_module:LOSS"}, "loss 'no_such_module:LOSS' cannot be imported"),
        ({"loss": "tests.own_names:topk"}, "must be an Objective of dmpo.objectives.step, got function"),
        ({"decoder": "tests.own_names:nothing"}, "must return a policy"),
    ],
)
def test_a_wrong_name_is_told_before_anything_is_written(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(settings(tmp_path / "run", **changes))
    assert not list(tmp_path.iterdir())


def test_memory_is_planned_for_the_largest_views_of_a_loss_of_ones_own(tmp_path: Path) -> None:
    model_config = tiny(vocab_size=5000, max_length=32).config
    losses = ("wdce", "diffu_grpo", "tests.own_names:LOSS")
    wdce, one_step, own = (plan(settings(tmp_path, loss=loss), model_config, device="cpu") for loss in losses)
    for phase in ("score", "update"):
        assert own.peak(phase) == one_step.peak(phase)
    assert own.peak("update") > wdce.peak("update")
