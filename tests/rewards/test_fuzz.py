"""If these fail, some text stops a reward: rewards are pure, bounded, and never raise."""

from __future__ import annotations

import math
import time
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.runs.fuzz_rewards import COLUMNS, HOSTILE, LIMITS, fuzzed, run
from dmpo import rewards

RANGES = {"gsm8k": 4.0, "math": 3.0, "countdown": 1.0, "sudoku": 2.0}
PURE = ("gsm8k", "countdown", "sudoku")
LONG = 1_000_000


def columns(name: str, count: int) -> dict[str, list[Any]]:
    return {column: [value] * count for column, value in COLUMNS[name].items()}


@pytest.mark.parametrize("name", PURE)
@settings(max_examples=50)
@given(text=st.text(st.characters(), max_size=300))  # surrogates and NUL included
def test_any_text(name: str, text: str) -> None:
    for wrapped in (text, f"<answer>{text}</answer>", f"\\boxed{{{text}}}"):
        scores = getattr(rewards, name)([wrapped], **columns(name, 1))
        assert 0 <= scores[0] <= RANGES[name]
        assert scores == getattr(rewards, name)([wrapped], **columns(name, 1)), "pure"


@pytest.mark.parametrize("name", RANGES)
def test_fuzzed_completions(name: str) -> None:
    random = Random(name)
    result = run(name, [fuzzed(random) for _ in range(60 if name == "math" else 800)])
    assert result["problems"] == []


@pytest.mark.parametrize("name", RANGES)
def test_hostile_completions_earn_nothing(name: str) -> None:
    random = Random(0)
    texts = [make(random) for make in HOSTILE]
    scores = getattr(rewards, name)(texts, **columns(name, len(texts)))
    assert all(math.isfinite(score) and score < 2.0 for score in scores), "none is right"


@pytest.mark.parametrize("name", PURE)
@pytest.mark.parametrize(
    "unit",
    ["x", "9", "(", "{", "\\", "<answer>", "\\boxed{", "answer is ", "1 ", "1,", "\ud800", "\u202e", "８", "\n", "-"],
)
def test_a_million_characters(name: str, unit: str) -> None:
    text = unit * (LONG // len(unit))
    start = time.process_time()
    for wrapped in (text, f"<answer>{text}</answer>"):
        getattr(rewards, name)([wrapped], **columns(name, 1))
    assert time.process_time() - start < 4 * LIMITS[name], "linear in the text, with room for a slow machine"
