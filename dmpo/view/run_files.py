"""What the page needs of the folder of a run. Files that are absent, damaged or being written cost a remark at most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..storage.lock import is_locked
from .lines import read_at, read_lines, read_object
from .values import duration, number_of, whole_of

CONFIG, METRICS, SUMMARY = "config.yaml", "metrics.jsonl", "summary.json"
FILES = (CONFIG, METRICS, "timings.jsonl", "completions.jsonl", "held_out.jsonl", SUMMARY)


@dataclass
class Run:
    """The files of one run, read. `complaints`: a line for each thing that could not be read."""

    path: Path
    name: str
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    timings: list[dict[str, Any]]
    summary: dict[str, Any]
    rounds: list[tuple[int, int, int]]
    """(step, group, offset in bytes) of the lines of completions.jsonl"""
    held_out: list[dict[str, Any]]
    is_running: bool
    complaints: list[str] = field(default_factory=list)

    @property
    def step(self) -> int:
        """The last step in metrics.jsonl; 0 without one."""
        return self.metrics[-1]["step"] if self.metrics else 0

    @property
    def is_finished(self) -> bool:
        """Whether the run has written its summary; not so once it was resumed and has gone further."""
        return whole_of(self.summary.get("steps")) == self.step and self.step >= (self.max_steps or 0)

    @property
    def max_steps(self) -> int | None:
        return whole_of(self.config.get("max_steps"))

    @property
    def status(self) -> str:
        """One sentence: finished, still running, or stopped."""
        of = f"step {self.step}" + (f" of {self.max_steps}" if self.max_steps else "")
        if self.is_finished:
            seconds = number_of(self.summary.get("seconds"))
            in_time = "" if seconds is None else f" in {duration(seconds)}"
            return f"finished: {self.step} steps{in_time}"
        return f"still running, as of {of}" if self.is_running else f"not finished: stopped after {of}"

    def completions(self, rounds: Sequence[tuple[int, int, int]]) -> list[dict[str, Any] | None]:
        """The objects of these lines of completions.jsonl; None for a line that has gone since."""
        return read_at(self.path / "completions.jsonl", [offset for _, _, offset in rounds]) if rounds else []


def check_run(path: Path) -> None:
    """Raise ValueError unless a path is the folder of a run."""
    if not path.exists():
        raise ValueError(f"no such run: {path}; give the output_dir of a run, or the results.jsonl of dmpo eval")
    if not path.is_dir():
        raise ValueError(f"{path} is neither the folder of a run nor a file .jsonl of dmpo eval's results")
    if not any((path / name).exists() for name in (CONFIG, METRICS)):
        above = next((folder for folder in path.resolve().parents if (folder / CONFIG).exists()), None)
        hint = f"did you mean the run {above}?" if above else "give the output_dir of a run"
        raise ValueError(f"{path} is not the folder of a run, because it has neither {CONFIG} nor {METRICS}; {hint}")


def read_run(path: Path, name: str) -> Run:
    """Read the folder of a run, except for the completions, of which there may be many.

    Raises:
        ValueError: it is not the folder of a run.
    """
    check_run(path)
    complaints: list[str] = []

    def lines(file: str, keep: Callable[[int, dict[str, Any]], Any]) -> list[Any]:
        kept, complaint = read_lines(path / file, keep)
        complaints.extend([complaint] if complaint else [])
        return [value for value in kept if value is not None]

    config, complaint = _read_config(path / CONFIG)
    summary, other = read_object(path / SUMMARY)
    complaints += [text for text in (complaint, other) if text]
    group = max(1, whole_of(config.get("num_generations")) or 1)
    return Run(
        path=path,
        name=name,
        config=config,
        metrics=lines(METRICS, _with_step),
        timings=lines("timings.jsonl", _with_step),
        summary=summary,
        rounds=lines("completions.jsonl", lambda offset, line: _place(offset, line, group)),
        held_out=lines("held_out.jsonl", _with_step),
        is_running=is_locked(path),
        complaints=complaints,
    )


def short_names(paths: Sequence[Path]) -> list[str]:
    """The last folders of each path, as many as tell the paths apart. The same path twice gets the same name."""
    parts = [path.resolve().parts for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return [str(path) for path in paths]


def _read_config(path: Path) -> tuple[dict[str, Any], str | None]:
    if not path.exists():
        return {}, f"{path} is absent, so the page shows no configuration"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8", errors="replace"))
    except (yaml.YAMLError, RecursionError) as error:
        return {}, f"{path} is not valid YAML, and is left out: {' '.join(str(error).split())[:200]}"
    return (values, None) if isinstance(values, dict) else ({}, f"{path} holds no keys, and is left out")


def _with_step(_: int, line: dict[str, Any]) -> dict[str, Any] | None:
    return line if whole_of(line.get("step")) is not None else None


def _place(offset: int, line: dict[str, Any], group_size: int) -> tuple[int, int, int] | None:
    """(step, group, offset); files of before have no group."""
    step, row, group = (whole_of(line.get(name)) for name in ("step", "row", "group"))
    if step is None:
        return None
    return step, group if group is not None else (row or 0) // group_size, offset
