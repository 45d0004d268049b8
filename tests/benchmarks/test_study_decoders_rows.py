"""If these fail, the study of decoders counts a row twice, mixes rows, or decodes otherwise than a run does."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.study.decoders.curves import options_of, points
from benchmarks.study.decoders.measure import Subject, of_different_rows
from dmpo import DMPOConfig
from dmpo.config.files import load_config


def subject_of(prompts: str) -> Subject:
    subject = Subject(load_config(DMPOConfig, "sudoku-tiny"), "cpu", rows=len(prompts), alone=3, scored=1)
    subject.__dict__["problems"] = [{"prompt": prompt} for prompt in prompts]
    return subject


def record(solved: str, **changes: Any) -> dict[str, Any]:
    return {"task": "sudoku4", "curve": "topk", "value": 1, "batch": 16, "solved": solved} | changes


def test_a_row_that_comes_twice_counts_once() -> None:
    subject = subject_of("abacbd")
    assert subject.different == [0, 1, 3, 5]
    whole = of_different_rows(record("011010"), subject)
    assert (whole["solved"], whole["rows"]) == ("0100", 6)
    alone = of_different_rows(record("011", batch=1), subject)
    assert (alone["solved"], alone["rows"]) == ("01", 3)
    assert whole["solved"].startswith(alone["solved"])


def test_countdown_repeats_rows() -> None:
    subject = Subject(load_config(DMPOConfig, "countdown-tiny"), "cpu", rows=512, alone=1, scored=1)
    prompts = [row["prompt"] for row in subject.problems]
    assert len(set(prompts)) == len(subject.different) < 512


def test_records_of_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"topk 1, batch 16, has 2 rows, not 6"):
        of_different_rows(record("01"), subject_of("abacbd"))


def test_a_point_keeps_what_a_config_says_of_eos_and_of_the_suffix() -> None:
    config = load_config(DMPOConfig, "illada-8b-gsm8k")
    options = [options_of(point, config, 0.0) for point in points(config)]
    assert {one.early_stop for one in options} == {config.early_stop} == {True}
    assert {one.suffix for one in options} == {"none"}
