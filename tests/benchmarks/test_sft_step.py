"""If these fail, a step of fine-tuning is compared with another loss than its own, or a missed target reads as met."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.harness.setting import Setting
from benchmarks.measured import sft_step

SETTING = Setting(quick=True)


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sft_step, "in_own_process", lambda function, setting, **named: function(setting, **named))
        return sft_step.measure(SETTING, layers=2)


def test_both_variants_are_one_loss(results: dict[str, Any]) -> None:
    plain, ours = (results["variants"][name] for name in ("plain", "ours"))
    assert ours["loss"] == pytest.approx(plain["loss"], rel=1e-5)
    assert ours["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-4)
    assert ours["bytes"] > 0
    assert results["times_faster"] == plain["seconds_median"] / ours["seconds_median"]
    assert all(variant["seconds_best"] <= variant["seconds_median"] for variant in (plain, ours))


def test_the_text_begins_with_the_answer(results: dict[str, Any]) -> None:
    header = {"device": "a CPU", "versions": {"torch": "1"}, "command": "c", "cores": 2, "load_average": [0.0, 0.0]}
    header |= {"date": "2026-01-01", "processor": "x", "commit": "0" * 40}
    text = sft_step.markdown(results | {"header": header, "times_faster": 2.5, "memory_share": 0.75})
    assert "2.50 times faster than plain (target 2: met) with 0.75 of its memory (target 0.5: MISSED)" in text
