"""If these fail, a number of a run's progress is cut, or a log file holds what only a terminal shows."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from dmpo.run.progress import Training, clock

METRICS = {"reward": 0.4567, "ess": 0.25, "loss": -0.1234567, "learning_rate": 1e-5, "grad_norm": 0.31}
SPEEDS = ["4.0 tokens/forward", "1234 completions/s"]


def shown(width: int) -> str:
    """The last line of a progress on a terminal of this width."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=20, color_system=None)
    training = Training(console, 1000)
    with training.from_step(990):
        training.step({"step": 999, **METRICS}, SPEEDS, reports=False)
        training._progress.refresh()
    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = [line for line in re.split(r"[\r\n]|\x1b\[[0-9;?]*[A-Za-z]", text) if "step" in line]
    return lines[-1].rstrip()


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 200])
def test_a_terminal_shows_whole_numbers_only(width: int) -> None:
    line = shown(width)
    assert len(line) <= width
    assert "…" not in line
    parts = [part for part in line.split("  ") if not set(part) <= {"━"}]
    whole = r"step 999/1000|\d:\d\d:\d\d|left [\d-]:[\d-]{2}:[\d-]{2}|reward 0\.457|ESS 0\.25"
    for part in parts:
        assert re.fullmatch(rf"{whole}|4\.0 tokens/forward|1234 completions/s", part), part
    assert parts[0] == "step 999/1000"
    assert ("reward 0.457" in parts) == (width >= 27)
    assert ("ESS 0.25" in parts) == (width >= 60)
    assert ("━" in line) == (width >= 80)
    assert ("1234 completions/s" in parts) == (width >= 200)


def test_a_file_has_a_line_of_text_for_a_reported_step() -> None:
    console = Console(file=io.StringIO(), width=1000)
    training = Training(console, 1000)
    with training.from_step(990):
        training.step({"step": 995, **METRICS}, SPEEDS, reports=False)
        training.step({"step": 998, **METRICS, "reward/a": 0.25, "skipped": 1}, SPEEDS, reports=True)
    line = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.fullmatch(
        r"step 998/1000  loss -0\.1235  reward 0\.457  reward/a 0\.250  learning rate 1e-05  gradient norm 0\.31  "
        r"ESS 0\.25  \d\.\d s  left 0:00:0\d  skipped\n",
        line,
    )


def test_the_time_left_is_that_of_this_session(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("dmpo.run.progress.time", SimpleNamespace(perf_counter=lambda: now[0]))
    console = Console(file=io.StringIO(), width=1000)
    training = Training(console, 1000)
    with training.from_step(900):
        now[0] += 500.0
        training.step({"step": 910, **METRICS}, SPEEDS, reports=True)
    assert "500.0 s  left 1:15:00" in console.file.getvalue()  # type: ignore[attr-defined]
    assert clock(3599.6) == "1:00:00"


def test_other_ranks_print_nothing() -> None:
    console = Console(file=io.StringIO(), quiet=True)
    training = Training(console, 10)
    with training.from_step(0):
        training.step({"step": 1, **METRICS}, SPEEDS, reports=True)
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
