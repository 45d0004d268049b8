"""If these fail, a page that is watched stays old, is written for nothing, or goes on for ever."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from dmpo.view import watch, watch_runs
from tests.view.run_folders import content_of, curve, write_results, write_run, write_summary


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What happens in each pause of the watch, in place of waiting."""
    actions: list[Callable[[], None]] = []
    stand_in = SimpleNamespace(sleep=lambda seconds: actions.pop(0)(), monotonic=time.monotonic)
    monkeypatch.setattr(watch, "time", stand_in)  # of that module alone: other threads may sleep, too
    return actions


def test_a_page_is_written_when_files_change_until_the_run_ends(
    tmp_path: Path, pauses: list[Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", finished=False)
    pages: list[list[int]] = []
    write = watch.write_and_remark

    def recorded(paths: list[Path], output: Path | None) -> tuple[Path, list[str]]:
        page, remarks = write(paths, output)
        pages.append(curve(content_of(page), "reward")["series"][0]["x"])
        return page, remarks

    def step() -> None:
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 7, "reward": 0.5}) + "\n")

    monkeypatch.setattr(watch, "write_and_remark", recorded)
    told: list[Path] = []
    pauses += [lambda: None, lambda: None, step, lambda: write_summary(run, 7)]
    assert watch_runs([run], written=told.append) == run / "view.html"
    assert told == [run / "view.html"]
    assert pages == [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7]]
    assert pauses == []


def test_ctrl_c_ends_it_and_leaves_the_page(
    tmp_path: Path, pauses: list[Callable[[], None]], caplog: pytest.LogCaptureFixture
) -> None:
    run = write_run(tmp_path / "run", logged=0, finished=False)

    def interrupt() -> None:
        raise KeyboardInterrupt

    pauses += [lambda: (run / "timings.jsonl").unlink(), interrupt]
    page = watch_runs([run], tmp_path / "page.html")
    assert page.is_file()
    assert len(caplog.records) == 1, "a remark is said once"


def test_files_are_not_watched(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--watch goes with runs"):
        watch_runs([write_results(tmp_path / "results.jsonl")])
    with pytest.raises(ValueError, match=r"no such run"):
        watch_runs([tmp_path / "absent"])
