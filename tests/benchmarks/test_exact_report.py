"""If these fail, the report of the exact study is not that of its records, or compares runs that differ otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.study.exact import report
from benchmarks.study.exact.conditions import Condition, Question
from benchmarks.study.records import STUDY, load

EXACT = STUDY / "exact"
CONDITIONS = (
    Condition("plain", "additive", 100, {}),
    Condition("better", "additive", 100, {}),
    Condition("longer", "additive", 200, {}),
    Condition("other, plain", "graded", 100, {}),
)
ENDS = {"plain": (0.5, 0.7), "better": (0.2, 0.6), "longer": (0.1, 0.1), "other, plain": (0.3, 0.3)}


def record(condition: Condition, seed: int, kl: float) -> dict[str, Any]:
    start = 1.0 if condition.instance == "additive" else 9.0
    numbers = dict.fromkeys(report.COLUMNS, 0.0)
    points = [{**numbers, "kl_forward": start, "completions": 0}]
    points.append({**numbers, "kl_forward": kl, "completions": condition.completions})
    return {"condition": condition.name, "seed": seed, "curve": points, "target": numbers}


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The rows of the table of a question of two instances."""
    monkeypatch.setattr(report, "QUESTIONS", (Question("key", "title", CONDITIONS),))
    records = {(c.name, seed): record(c, seed, ENDS[c.name][seed]) for c in CONDITIONS for seed in (0, 1)}
    text = report.markdown(records)
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines() if row.startswith("|")]


def test_each_instance_has_its_own_start_and_target(lines: list[list[str]]) -> None:
    assert [row[0] for row in lines[2:]] == [
        *("*before, additive*", "*target, additive*", "plain", "better", "longer"),
        *("*before, graded*", "*target, graded*", "other, plain"),
    ]
    assert [row[3] for row in lines if "before" in row[0]] == ["1", "9"]


def test_differences_are_those_of_seeds_to_the_first_condition(lines: list[list[str]]) -> None:
    last = {row[0]: row[-1] for row in lines[2:]}
    assert last["better"].startswith("-0.2 [")  # mean of -0.3 and -0.1
    low, high = map(float, last["better"].partition("[")[2].rstrip("]").split(","))
    assert (low, high) == pytest.approx((-0.2 - 12.706 * 0.1, -0.2 + 12.706 * 0.1), abs=0.005)  # t(0.975, 1) · s / √2
    assert last["plain"] == last["other, plain"] == ""
    assert last["longer"] == "", "more completions are another question"


def test_the_committed_report_is_that_of_the_committed_records() -> None:
    records = load(EXACT / "runs.jsonl")
    assert (EXACT / "exact.md").read_text(encoding="utf-8") == report.markdown(records)
    for question in report.answered(records):
        assert (EXACT / f"{question.key}.png").is_file()
