"""If these fail, the study repeats finished runs, mixes settings, or reports what no record says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from benchmarks.study import __main__ as command
from benchmarks.study import conditions as settings
from benchmarks.study import report
from benchmarks.study.conditions import SCAN_SEED, SEEDS, Condition, conditions, scan_conditions
from benchmarks.study.questions import QUESTIONS, Contrast, Panel, Question
from benchmarks.study.records import RUNS, check_same, duration, load, save
from benchmarks.study.rewards import units_complete
from benchmarks.study.statistics import Mean, contrast

SHARES = {
    "sudoku/a": [0.50, 0.60, 0.55, 0.58],
    "sudoku/b": [0.62, 0.70, 0.61, 0.72],
    "sudoku/c": [0.51, 0.60, 0.55, 0.56],
}


def record(condition: str, seed: int, share: float, **changes: Any) -> dict[str, Any]:
    counts = {"sampled": round(200 * share), "greedy": 150, "rows": 200}
    values = {
        "condition": condition,
        "seed": seed,
        "config": {"task": "sudoku4", "evaluation": {"test_rows": 200}},
        "model": "0123",
        "samples": 64,
        "steps": 2,
        "validation": [{"samples": 64, "step": 2, **counts}],
        "test": [
            {"samples": 0, "step": 0, "sampled": 38, "greedy": 100, "rows": 200},
            {"samples": 64, "step": 2, **counts},
        ],
        "rounds": {"entropy": [0.5]},
        "seconds": 30,
        "made": {"date": "2026-01-02", "commit": "abc"},
    }
    return values | changes


def records() -> dict[tuple[str, int], dict[str, Any]]:
    rows = [record(name, seed, share) for name, shares in SHARES.items() for seed, share in enumerate(shares)]
    return {(row["condition"], row["seed"]): row for row in rows}


def question() -> Question:
    contrasts = (Contrast("b − a", ("sudoku/b",), ("sudoku/a",)), Contrast("c − a", ("sudoku/c",), ("sudoku/a",)))
    return Question("x", "X", tuple(SHARES), contrasts, (Panel("", "sampled", tuple(SHARES)),), ("entropy",))


def test_every_condition_is_a_valid_config_that_draws_as_much_as_the_others() -> None:
    for condition in (*conditions().values(), *scan_conditions().values()):
        config = condition.config(0, "unused")
        assert config.num_prompts * config.num_generations == settings.SIZES[condition.task][1], condition.name
        assert config.max_steps % config.gradient_steps == 0
        assert config.max_steps % config.eval_steps == 0
        for split in ("validation", "test"):
            evaluation = condition.evaluation(split)
            assert (evaluation.decoder, evaluation.steps) == ("topk", settings.TASKS[condition.task]["steps"])
    shown = {str(sorted(condition.settings().items())) for condition in conditions().values()}
    assert len(shown) == len(conditions())  # no setting is run under two names


def test_the_time_of_a_study_is_told_before_it_starts() -> None:
    seconds = [44.0] * 6 + [140.0] * 3
    assert duration(seconds, 2) == "runs to do: 9, 2 at a time, in about 6 min"  # 684 s
    assert duration([140.0], 2) == "runs to do: 1, 2 at a time, in about 2 min"
    assert duration([], 2) == "runs to do: 0, 2 at a time, in about 0 min"


def test_the_reward_of_the_hard_puzzles_counts_units_of_any_solution() -> None:
    whole, clues = "1234341221434321", "12.............."
    broken = "1234341221433421"  # two columns have a digit twice
    other = "1243432121343412"
    assert units_complete([whole, other, broken, "2134431212433421", "no grid"], [clues] * 5) == pytest.approx(
        [2.0, 2.0, 10 / 12, 0.0, 0.0]
    )


def test_a_name_used_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="sudoku/a"):
        settings.by_name([Condition("sudoku/a"), Condition("sudoku/a", "none")])


def test_questions_ask_about_conditions_that_are_run() -> None:
    asked = {name for question in QUESTIONS for name in question.conditions}
    assert asked == set(conditions())
    for question in QUESTIONS:
        named = [name for item in question.contrasts for name in (*item.plus, *item.minus)]
        named += [name for panel in question.panels for name in panel.conditions]
        assert set(named) <= set(question.conditions), question.key
    assert len({question.key for question in QUESTIONS}) == len(QUESTIONS)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Condition, int]]:
    """Two runs of one round of eight completions."""
    for name, value in (("SIZES", {"sudoku": (1, 8)}), ("VALIDATION_ROWS", 2), ("TEST_ROWS", 3)):
        monkeypatch.setattr(settings, name, value)
    return [(Condition("sudoku/first"), 0), (Condition("sudoku/second", "none", group=4), 0)]


def test_a_study_is_finished_after_a_kill_and_runs_nothing_twice(
    tiny: list[tuple[Condition, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, scratch, run = tmp_path / "results" / "runs.jsonl", tmp_path / "scratch", command.run
    calls = []

    def dies_in_the_second(condition: Condition, seed: int, folder: Path) -> dict[str, Any]:
        calls.append(condition.name)
        made = run(condition, seed, folder)
        if len(calls) == 2:
            (folder / "sudoku-second-seed-0").mkdir()
            (folder / "sudoku-second-seed-0" / "config.yaml").write_text("half a run")
            raise KeyboardInterrupt
        return made

    monkeypatch.setattr(command, "run", dies_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        command.carry_out(tiny, path, scratch, workers=1)
    left = command.missing(tiny, load(path))
    assert left == tiny[1:]
    assert command.carry_out(left, path, scratch, workers=1) == []
    assert calls == ["sudoku/first", "sudoku/second", "sudoku/second"]
    found = load(path)
    assert command.missing(tiny, found) == []
    assert [len(entry["rounds"]["reward"]) for entry in found.values()] == [1, 1]
    assert [point["rows"] for point in found["sudoku/first", 0]["test"]] == [3, 3]
    assert [point["rows"] for point in found["sudoku/first", 0]["validation"]] == [2]  # not the start's again
    assert [point["step"] for point in found["sudoku/first", 0]["test"]] == [0, 2]
    assert not list(scratch.glob("*/"))  # nothing of a finished run stays but its log

    again = run(*tiny[0], scratch)  # a third run of one process: nothing of the others is left in it
    assert {**again, "seconds": 0} == {**found["sudoku/first", 0], "seconds": 0}
    assert again["rounds"] != found["sudoku/second", 0]["rounds"]


def test_a_run_that_fails_is_reported_and_the_others_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(condition: Condition, seed: int, folder: Path) -> dict[str, Any]:
        if seed == 0:
            raise FloatingPointError("not finite")
        return record(condition.name, seed, 0.5)

    monkeypatch.setattr(command, "run", run)
    path = tmp_path / "runs.jsonl"
    failures = command.carry_out([(Condition("sudoku/a"), 0), (Condition("sudoku/a"), 1)], path, tmp_path / "s", 1)
    assert failures == ["sudoku/a, seed 0: FloatingPointError: not finite"]
    assert list(load(path)) == [("sudoku/a", 1)]


def test_a_record_of_another_setting_is_refused(tiny: list[tuple[Condition, int]]) -> None:
    condition, seed = tiny[0]
    wanted = condition.settings()
    made = record(condition.name, seed, 0.5, config=wanted, model="0123")
    check_same(made, wanted, "0123")
    other = Condition(condition.name, changes={"alpha": 0.2}).settings()
    with pytest.raises(ValueError, match=r"'sudoku/first', seed 0, has alpha 0\.1, and the study now wants 0\.2"):
        check_same(made, other, "0123")
    with pytest.raises(ValueError, match="buffer_rounds 'at its default'"):
        check_same(made, wanted | {"buffer_rounds": 2}, "0123")
    with pytest.raises(ValueError, match="another embedded model"):
        check_same(made, wanted, "4567")
    with pytest.raises(ValueError, match="wants"):
        command.missing([(Condition(condition.name, changes={"alpha": 0.2}), 0)], {(condition.name, 0): made})


def test_records_are_read_back_and_damage_is_named(tmp_path: Path) -> None:
    path, made = tmp_path / "runs.jsonl", records()
    save(path, made.values())
    assert load(path) == made
    assert load(tmp_path / "none.jsonl") == {}
    path.write_text(path.read_text() + '{"condition": "sudoku/a"')
    with pytest.raises(ValueError, match="line 13, is no record"):
        load(path)
    save(path, [*made.values(), made["sudoku/a", 0]])
    with pytest.raises(ValueError, match="twice"):
        load(path)


@pytest.mark.parametrize("values", [[0.5, 0.7], [0.1, 0.4, 0.2], [3.0, -1.0, 2.5, 0.0, 9.0]])
def test_intervals_are_those_of_a_t_test(values: list[float]) -> None:
    mean, expected = Mean.of(values), stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean.low, mean.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert mean.value == pytest.approx(sum(values) / len(values))
    assert mean.verdict == ("not resolved" if expected.low <= 0 <= expected.high else "higher")


def test_a_difference_is_paired_by_seed() -> None:
    columns = {name: dict(enumerate(shares)) for name, shares in SHARES.items()}
    found = contrast(columns, ["sudoku/b"], ["sudoku/a"])
    expected = stats.ttest_rel(SHARES["sudoku/b"], SHARES["sudoku/a"]).confidence_interval(0.95)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    both = contrast(columns, ["sudoku/b", "sudoku/c"], ["sudoku/a", "sudoku/a"], 2)
    assert both is not None
    assert both.value == pytest.approx((found.value - 0.0025) / 2)  # c is 0.0025 below a
    del columns["sudoku/b"][1]  # a seed that one of the two lacks does not count
    found = contrast(columns, ["sudoku/b"], ["sudoku/a"])
    assert found is not None
    assert found.n == 3
    assert found.value == pytest.approx((0.12 + 0.06 + 0.14) / 3)
    assert contrast(columns, ["sudoku/z"], ["sudoku/a"]) is None
    assert Mean.of([1.0]).verdict == "one seed, no interval"
    with pytest.raises(ValueError, match="empty"):
        Mean.of([])


def test_conclusions_and_tables_say_what_the_records_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(report, "QUESTIONS", (question(),))
    low, high = stats.ttest_rel(SHARES["sudoku/b"], SHARES["sudoku/a"]).confidence_interval(0.95)
    lines = report.conclusions(question(), records())
    assert lines[0] == (
        f"- b − a: sampled +10.5 [{100 * low:+.1f}, {100 * high:+.1f}]: higher; "
        "greedy +0.0 [+0.0, +0.0]: not resolved; entropy +0.00 [+0.00, +0.00]: not resolved."
    )
    assert "sampled -0.2 [" in lines[1]
    assert lines[1].count("not resolved") == 3
    scan = record("sudoku/a", SCAN_SEED, 1.0)  # counts nowhere but in the scan
    other = record("sudoku/z", 0, 1.0, rounds={"entropy": [None]})  # of another question
    report.write(records() | {("sudoku/a", SCAN_SEED): scan, ("sudoku/z", 0): other}, tmp_path)
    text = (tmp_path / "study.md").read_text()
    spread = stats.ttest_1samp(SHARES["sudoku/a"], 0).confidence_interval(0.95)
    assert f"| a | 4 | 55.8% [{spread.low:.1%}, {spread.high:.1%}] | 75.0% [75.0%, 75.0%] | 0.50 [0.50, 0.50] |" in text
    assert "| sudoku, before |  | 19.0% | 50.0% |" in text
    assert text.index("## Conclusions") < text.index(f"- x: {lines[0][2:]}") < text.index("## Learning rates")
    assert "14 runs of one thread, about 7 minutes" in text  # of 30 s each
    assert "seeds (0, 1, 2, 3)" in text
    assert (tmp_path / "x.png").stat().st_size > 10_000


def best_rate(records: Any, task: str, objective: str) -> float | None:
    """The learning rate with the highest sampled validation accuracy at the end of its scan run.

    The smaller one of equals. None where a run of the scan is missing.
    """
    shares = {rate: report.scanned(records, task, objective, rate) for rate in sorted(settings.SCANS[task][objective])}
    known = {rate: share for rate, share in shares.items() if share is not None}
    return max(known, key=known.__getitem__) if len(known) == len(shares) else None


def test_the_best_rate_is_that_of_the_highest_validation_accuracy() -> None:
    rates = settings.SCANS["sudoku"]["none"]
    names = {rate: settings.scan_name("sudoku", "none", rate) for rate in rates}
    made = {(name, SCAN_SEED): record(name, SCAN_SEED, 0.5) for name in names.values()}
    assert best_rate(made, "sudoku", "none") == rates[0]
    made[names[rates[1]], SCAN_SEED] = record(names[rates[1]], SCAN_SEED, 0.6)
    assert best_rate(made, "sudoku", "none") == rates[1]
    del made[names[rates[2]], SCAN_SEED]
    assert best_rate(made, "sudoku", "none") is None


def test_the_committed_report_is_that_of_the_committed_records() -> None:
    found = load(RUNS)
    assert (RUNS.parent / "study.md").read_text() == report.markdown(found)
    for question in report.answered(found):
        assert (RUNS.parent / f"{question.key}.png").is_file()


def test_the_committed_records_are_of_the_settings_that_the_study_has_now() -> None:
    found = load(RUNS)
    seeds = sorted({*SEEDS, *(seed for _, seed in found)} - {SCAN_SEED})
    every = command.planned([question.key for question in QUESTIONS], seeds)
    done = len(every) - len(command.missing(every, found))  # refuses a record of other settings
    assert done == len(found)  # and no record is of a run that the study does not know


def test_missing_seeds_are_reported() -> None:
    found = load(RUNS)
    left = command.missing(command.planned([question.key for question in QUESTIONS], list(SEEDS)), found)
    told = f"Not run with {len(SEEDS)} seeds yet" in report.markdown(found)
    assert told == any(seed != SCAN_SEED for _, seed in left)


def test_every_run_takes_the_best_rate_of_its_scan() -> None:
    found = load(RUNS)
    run = {(c.task, c.objective) for c in conditions().values() if any(name == c.name for name, _ in found)}
    assert len(run) >= 4
    for task, objective in run:
        assert settings.LEARNING_RATES[task][objective] == best_rate(found, task, objective), (
            task,
            objective,
        )
