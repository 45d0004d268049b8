"""If these fail, the page shows something that is not in the files of the run, or leaves out what is in them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmpo.config.keys import DMPOConfig
from dmpo.storage.lock import FolderLock, is_locked
from dmpo.view import write_page
from dmpo.view.completions import body, rollout_gallery
from dmpo.view.curves import thin
from dmpo.view.lines import read_lines
from dmpo.view.meanings import metric_meaning, metric_meanings, read_meanings
from dmpo.view.run_files import FILES, read_run, short_names
from dmpo.view.settings import run_card
from dmpo.view.values import number_of, text_of
from tests.small_runs import lines as lines_of
from tests.view.run_folders import content_of, curve, gallery, write_lines, write_results, write_run, write_summary


def page(*runs: Path, output: Path | None = None) -> dict[str, Any]:
    return content_of(write_page(runs, output))


def test_every_number_of_the_metrics_is_a_curve_with_its_values(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", metrics=3)
    metrics = lines_of(run)
    content = page(run)
    names = {name for line in metrics for name in line} - {"step"}
    drawn = {one["name"] for group in content["curves"] for one in group["curves"]}
    assert drawn == names | {"seconds/rollout", "seconds/update"}
    (series,) = curve(content, "loss")["series"]
    assert series["x"] == [line["step"] for line in metrics]
    assert series["y"] == pytest.approx([line["loss"] for line in metrics], rel=1e-5)
    points, ends = curve(content, "greedy_accuracy")["series"]
    assert (points["shape"], points["x"]) == ("points", [2, 4, 6])
    assert (ends["shape"], ends["x"], ends["y"]) == ("ends", [0, 6], [0.25, 0.75])
    assert next(group["title"] for group in content["curves"]) == "At a glance"
    assert content["curves"][0]["curves"][0]["name"] == "reward"


def test_metrics_that_never_change_stand_apart_with_their_value(tmp_path: Path) -> None:
    content = page(write_run(tmp_path / "run"))
    last = content["curves"][-1]
    assert (last["title"], last["open"]) == ("Did not change", False)
    assert {one["name"]: one["value"] for one in last["curves"]} == {
        "learning_rate": 1e-4,
        "skipped": 0,
        "seconds/update": 1.5,
    }


def test_meanings_come_from_the_description_of_the_metrics() -> None:
    docstring = "Title\n\n    loss, other   a\n                  b\n  of the newest round:\n    pair\n        x\nEnd\n"
    assert read_meanings(docstring) == {"loss": "a b", "other": "a b", "pair": "x"}
    assert "effective sample size" in metric_meaning("ess")
    assert metric_meaning("nothing") == ""
    assert [name for name, meaning in metric_meanings().items() if not meaning] == []


def test_a_reward_of_several_takes_the_meaning_of_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmpo.view.meanings.metric_meanings", lambda: {"reward/NAME": "mean of one reward"})
    assert metric_meaning("reward/format") == "mean of one reward"


def test_gaps_and_what_is_no_number(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=3)
    write_lines(
        run / "metrics.jsonl", [{"step": s, "loss": v, "kind": "text"} for s, v in ((1, 0.5), (2, None), (3, 1))]
    )
    content = page(run)
    assert curve(content, "loss")["series"][0]["y"] == [0.5, None, 1]
    assert "kind" not in {one["name"] for group in content["curves"] for one in group["curves"]}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.none() | st.floats(-10, 10), min_size=1, max_size=300), st.integers(4, 50))
def test_a_thinned_curve_keeps_its_peaks(values: list[float | None], most: int) -> None:
    x, y = thin(list(range(len(values))), list(values), most)
    assert len(y) <= max(most, 4)
    assert x == sorted(set(x))
    assert all(values[place] == value for place, value in zip(x, y, strict=True))
    numbers = [value for value in values if value is not None]
    if numbers:
        kept = [value for value in y if value is not None]
        assert (min(kept), max(kept)) == (min(numbers), max(numbers))


def test_completions_of_a_group_stand_beside_each_other(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    lines = lines_of(run, "completions.jsonl")
    shown = gallery(page(run))
    assert [group["heading"] for group in shown["groups"]] == [
        "step 5 · group 8",
        "step 3 · group 4",
        "step 1 · group 0",
    ]
    newest = [line for line in lines if line["step"] == 5]
    for card, line in zip(shown["groups"][0]["cards"], newest, strict=True):
        assert card["numbers"] == pytest.approx([line["reward"], line["weight"], line["log_ratio"]], rel=1e-4)
        assert (card["tokens"], card["order"], card["text"]) == (line["tokens"], line["order"], line["completion"])
        assert card["log_probs"] == pytest.approx(line["log_probs"], rel=1e-3)
    assert shown["prompts"][shown["groups"][0]["prompt"]] == "puzzle 8"


def test_parts_of_a_reward_and_a_failure(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=1)
    lines = lines_of(run, "completions.jsonl")
    lines[0] |= {"rewards": {"format": 0.5, "answer": None}, "failure": "took longer than 5 s"}
    write_lines(run / "completions.jsonl", lines)
    shown = gallery(page(run))
    assert [number["label"] for number in shown["numbers"]] == ["reward", "weight", "log-ratio", "format", "answer"]
    cards = shown["groups"][0]["cards"]
    assert cards[0]["numbers"][3:] == [0.5, None]
    assert cards[1]["numbers"][3:] == [None, None]
    assert cards[0]["notes"] == ["the reward failed on it: took longer than 5 s"]


def test_files_of_earlier_runs_have_no_tokens(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=1)
    old = ("step", "row", "prompt", "completion", "reward", "weight")
    lines = [{key: line[key] for key in old} for line in lines_of(run, "completions.jsonl")]
    write_lines(run / "completions.jsonl", lines)
    (run / "held_out.jsonl").unlink()
    content = page(run)
    (group,) = gallery(content)["groups"]
    assert len(group["cards"]) == 4  # row // num_generations is the group
    assert all("tokens" not in card and card["text"] for card in group["cards"])
    (reason,) = gallery(content, "held-out")["absent"]
    assert "held_out.jsonl is absent" in reason


@pytest.mark.parametrize(
    "change",
    [{"order": [0]}, {"tokens": "text"}, {"log_probs": None}, {"order": ["a"] * 2}, {"order": [0.5, 1]}],
    ids=str,
)
def test_tokens_that_do_not_fit_together_are_left_out(change: dict[str, Any]) -> None:
    line = {"completion": "ab", "tokens": ["a", "b"], "order": [1, 0], "log_probs": [-0.1, None]}
    assert body(line)["tokens"] == ["a", "b"]
    assert body(line | change) == {"text": "ab"}


def test_before_and_after_wrong_to_right_first(tmp_path: Path) -> None:
    shown = gallery(page(write_run(tmp_path / "run")), "held-out")
    changes = [group["heading"].split(" · ")[1] for group in shown["groups"]]
    assert changes == ["wrong → right", "right → wrong", "wrong → wrong", "right → right"]
    first, last = shown["groups"][0]["cards"]
    assert (first["heading"], first["verdict"]) == ("before, step 0", False)
    assert (last["heading"], last["verdict"]) == ("after, step 6", True)


def test_what_differs_between_runs_comes_first(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", alpha=0.04)
    two = write_run(tmp_path / "two", seed=1, alpha=0.5, unheard_of=[1])
    content = page(one, two, output=tmp_path / "both.html")
    differing, same = content["settings"]
    assert {row["key"]: row["values"] for row in differing["rows"]} == {
        "seed": ["0", "1"],
        "alpha": ["0.04", "0.5"],
        "output_dir": [str(one), str(two)],
        "unheard_of": ["absent", "[1]"],
    }
    assert differing["rows"][-1]["key"] == "output_dir"
    assert "model" in {row["key"] for row in same["rows"]}
    assert all(row["meaning"] for row in same["rows"])
    assert [source["name"] for source in content["sources"]] == ["one", "two"]
    assert {series["source"] for series in curve(content, "reward")["series"]} == {0, 1}


def test_what_is_not_the_default_comes_first(tmp_path: Path) -> None:
    changed, default = page(write_run(tmp_path / "run", alpha=0.04, strength=0.5))["settings"]
    assert DMPOConfig.alpha == 0.04
    assert "strength" in {row["key"] for row in changed["rows"]}
    assert "alpha" in {row["key"] for row in default["rows"]}


def test_seconds_of_the_phases(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=4)
    phases = {row["phase"]: row["seconds"] for row in page(run)["phases"]}
    assert phases["update"] == [6]
    assert phases["rollout"][0] == pytest.approx(
        sum(line["rollout"] for line in lines_of(run, "timings.jsonl")), rel=1e-5
    )


def test_the_state_of_a_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", finished=False, max_steps=9)
    assert read_run(run, "run").status == "not finished: stopped after step 6 of 9"
    lock = FolderLock(run)
    try:
        assert is_locked(run)
        content = page(run)
    finally:
        lock.release()
    assert content["sources"][0]["status"] == "still running, as of step 6 of 9"
    assert content["sources"][0]["is_running"]
    assert not is_locked(run)
    write_summary(run, 6)
    assert not read_run(run, "run").is_finished, "a run of 6 steps was resumed for 9"
    assert read_run(write_run(tmp_path / "whole"), "whole").status == "finished: 6 steps in 12 s"


def test_a_line_that_is_not_whole_is_left_out_with_a_word(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", finished=False)
    for name in ("metrics.jsonl", "completions.jsonl"):
        with (run / name).open("a") as file:
            file.write('{"step": 7, "rew')
    content = page(run)
    assert content["remarks"] == [
        f"the last line of {run / name} is not whole, and is left out"
        for name in ("metrics.jsonl", "completions.jsonl")
    ]
    assert curve(content, "reward")["series"][0]["x"] == [1, 2, 3, 4, 5, 6]
    path = tmp_path / "broken.jsonl"
    path.write_text('{"a": 1}\nnonsense\n[1]\n\n{"a": 2}')
    values, complaint = read_lines(path, lambda _, line: line["a"])
    assert values == [1, 2]
    assert complaint == f"{path}: 2 lines are no JSON objects, the first is line 2; left out"
    path.write_text("[" * 100_000 + "\n")
    assert read_lines(path, lambda _, line: line) == ([], f"{path}: line 1 is no JSON object; left out")


def test_of_many_completions_whole_groups_are_kept_evenly(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", steps=60, gradient_steps=1), "run")
    shown = rollout_gallery([run], most=40)
    steps = [int(group["heading"].split()[1]) for group in shown["groups"]]
    assert len(steps) == 10
    assert (steps[0], steps[-1]) == (60, 1)
    assert all(len(group["cards"]) == 4 for group in shown["groups"])
    assert shown["remark"] == "40 of 240 logged completions, evenly over the steps"


def test_long_texts_are_bounded() -> None:
    text = "a" * 900_000 + "END"
    short = text_of(text)
    assert len(short) < 21_000
    assert short.startswith("aaa")
    assert short.endswith("END")
    assert "880,003 characters are left out" in short
    card = body({"completion": "x", "tokens": ["y" * 1000] * 5000, "order": [0] * 5000, "log_probs": [0.0] * 5000})
    assert len(card["tokens"]) == len(card["order"]) == 4096
    assert card["more_tokens"] == 904
    assert len(card["tokens"][0]) < 300


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (True, 1),
        (0.1234567, 0.123457),
        (3.0, 3),
        (math.inf, None),
        (math.nan, None),
        ("3", None),
        (10**30, 1e30),
        (10**400, None),
    ],
    ids=str,
)
def test_numbers(value: Any, number: float | None) -> None:
    assert number_of(value) == number
    json.dumps(number_of(value), allow_nan=False)


@pytest.mark.parametrize(
    "value", [math.nan, -math.inf, 10**400, "x", [1], {"a": [1]}], ids=lambda value: str(value)[:9]
)
def test_any_value_in_any_place_of_a_file_leaves_a_page(tmp_path: Path, value: Any) -> None:
    run = write_run(tmp_path / "run", steps=2, keys={"own": 1})
    results = write_results(tmp_path / "results.jsonl", examples=2)
    for path in (*(run / name for name in FILES), results):
        (first, *others) = path.read_text().splitlines()
        kept = {key: one for key, one in json.loads(first).items() if key == "step"}
        path.write_text("\n".join([json.dumps({**dict.fromkeys(json.loads(first), value), **kept}), *others]) + "\n")
    content = page(run)
    assert len(content["galleries"][0]["groups"]) > 0
    assert curve(content, "reward")["series"][0]["x"][-1] == 2
    assert len(page(results)["cells"]["rows"]) == 2


def test_names_tell_runs_apart() -> None:
    assert short_names([Path("/a/x"), Path("/a/y")]) == ["x", "y"]
    assert short_names([Path("/a/x"), Path("/b/x")]) == ["a/x", "b/x"]
    assert short_names([Path("/a/x"), Path("/a/x")]) == ["x", "x"]


def test_a_summary_that_does_not_know_a_value_is_shown_without_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text()) | {"epochs": None}
    (run / "summary.json").write_text(json.dumps(summary))
    names = [name for name, _ in run_card(read_run(run, "run"))["facts"]]
    assert "epochs" not in names
    assert "device" in names
