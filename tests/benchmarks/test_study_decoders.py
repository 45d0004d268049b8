"""If these fail, the study of decoders compares other rows, measures twice, or names a frontier that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.study.decoders.command import FOLDER, key_of, load, main
from benchmarks.study.decoders.comparison import frontier, paired, positions_a_token, reaches, tokens_a_forward
from benchmarks.study.decoders.curves import options_of, points
from benchmarks.study.decoders.measure import Subject, measure
from benchmarks.study.decoders.report import best_points, of_task, yardstick_of
from dmpo import DMPOConfig
from dmpo.config.decoding import DECODERS
from dmpo.config.files import load_config


def record(solved: str, forwards: int = 8, **changes: Any) -> dict[str, Any]:
    rows = len(solved)
    own = {"curve": "topk", "value": 1, "solved": solved, "tokens": 8 * rows, "row_forwards": forwards * rows}
    return {**own, "positions": 100 * rows, **changes}


def test_a_difference_is_of_the_same_rows() -> None:
    """Eight rows; by hand: differences 1, −1, −1 and five 0, mean −1/8, variance (3 − 8/64)/7."""
    found = paired(record("10100000"), record("01110000"))
    half = 1.959963984540054 * ((3 - 8 / 64) / 7 / 8) ** 0.5
    assert (found.mean, found.low, found.high) == pytest.approx((-1 / 8, -1 / 8 - half, -1 / 8 + half))
    with pytest.raises(ValueError, match="argument 2 is longer"):
        paired(record("10"), record("101"))


@pytest.mark.parametrize(
    ("solved", "reached"),
    [
        ("1" * 50 + "0" * 50, True),
        (
            "1" * 45 + "0" * 55,
            False,
        ),  # within the interval of the yardstick alone, but no row is better and 5 are worse
        ("1" * 44 + "0" * 6 + "1" * 6 + "0" * 44, True),
        ("1" * 35 + "0" * 65, False),
    ],
)
def test_what_reaches_the_yardstick(solved: str, reached: bool) -> None:
    assert reaches(record(solved), record("1" * 50 + "0" * 50)) == reached


PLACES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


@given(PLACES)
def test_nothing_on_the_frontier_is_beaten_and_all_else_is(places: list[tuple[float, float]]) -> None:
    kept = frontier(places)
    for number, (cost, gain) in enumerate(places):
        better = [p for p in places if p[0] <= cost and p[1] >= gain and p != (cost, gain)]
        assert (number in kept) == (not better)
    assert kept


def test_of_each_curve_the_fastest_accurate_point_counts() -> None:
    yardstick = record("1" * 50 + "0" * 50)
    fast, wrong = record("1" * 50 + "0" * 50, 2, curve="risk", value=0.5), record("0" * 100, 1, curve="risk", value=0.3)
    assert best_points([yardstick, fast, wrong, record("0" * 100, 1, curve="wino")]) == [yardstick, fast]
    assert tokens_a_forward(fast) == 4
    assert positions_a_token(fast) == 12.5


@pytest.mark.parametrize("name", ["sudoku-tiny", "countdown-tiny", "llada-8b-gsm8k", "illada-8b-gsm8k"])
def test_every_decoder_has_a_curve_and_every_point_its_options(name: str) -> None:
    config = load_config(DMPOConfig, name)
    options = [options_of(point, config, 0.0) for point in points(config)]
    assert {one.decoder for one in options} >= set(DECODERS) - {"prefix_cache", "dual_cache", "random_order"}
    assert {one.cached for one in options} == {"none", "prefix", "dual"}
    assert {one.gen_length for one in options} == {config.gen_length}
    assert (options[0].decoder, options[0].steps) == ("topk", config.gen_length), "the yardstick"
    names = [point.name for point in points(config)]
    assert len(names) == len(set(names))


def test_a_batch_changes_nothing_but_the_forwards() -> None:
    config = load_config(DMPOConfig, "sudoku-tiny")
    subject = Subject(config, "cpu", rows=6, alone=6, scored=6)
    point = next(point for point in points(config) if point.curve == "parallel" and point.value == 0.5)
    alone, together = measure(subject, point, 1, 0.0), measure(subject, point, 6, 0.0)
    assert alone["solved"] == together["solved"]
    assert alone["row_forwards"] == alone["forwards"] == together["row_forwards"] > together["forwards"]
    assert alone["mismatch"] == []
    assert len(measure(subject, point, 6, 1.0)["mismatch"]) == 6


def test_a_study_goes_on_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    few = points(load_config(DMPOConfig, "countdown-tiny"))
    monkeypatch.setattr("benchmarks.study.decoders.command.points", lambda _: [few[0], few[5]])
    words = ["--configs", "countdown-tiny", "--rows", "4", "--alone", "2", "--scored", "2", "--batch", "4"]
    words += ["--results", str(tmp_path)]
    assert main(words) == 0
    path = tmp_path / "records.jsonl"
    lines = path.read_text().splitlines()
    assert len(lines) == 6
    assert "6 measurements to do, about 0 minutes" in capsys.readouterr().out
    path.write_text("\n".join(lines[:4]) + "\n")
    assert main(words) == 0
    assert "2 measurements to do" in capsys.readouterr().out
    assert [key_of(json.loads(line)) for line in path.read_text().splitlines()] == list(
        map(key_of, map(json.loads, lines))
    )
    assert "4 held-out rows, 4 in a batch" in (tmp_path / "decoders.md").read_text()
    assert (tmp_path / "countdown.png").exists()


def test_what_cannot_be_measured_is_named(capsys: Any) -> None:
    assert main(["--configs", "no-such-config"]) == 2
    assert "no-such-config" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--batch", "1"])
    assert "--batch at least 2" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["sudoku4", "countdown"])
def test_some_decoder_reaches_topk_with_half_of_its_forwards(task: str) -> None:
    """The committed records: at temperature 0."""
    records = [one for one in load(FOLDER / "records.jsonl").values() if one["task"] == task]
    greedy = of_task(records, 0.0, 16)
    yardstick = yardstick_of(greedy)
    others = [one for one in best_points(greedy) if one["curve"] != "topk"]
    assert max(map(tokens_a_forward, others)) >= 2 * tokens_a_forward(yardstick)
