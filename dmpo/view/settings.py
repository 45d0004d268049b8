"""The keys of runs: what differs between them, or from the defaults, comes first; each key with its meaning."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

from ..config.keys import DMPOConfig
from ..config.kinds import kind_of_keys
from ..config.meanings import key_meanings
from ..config.sft import SFTConfig
from .run_files import Run
from .values import duration, number_of, text_of

_ABSENT = "absent"


def settings_tables(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Tables {title, open, rows}; a row is {key, meaning, values}, a value for each run."""
    meanings = key_meanings(SFTConfig) | key_meanings(DMPOConfig)
    defaults = _defaults(kind_of_keys(runs[0].config))
    keys = list(dict.fromkeys([*meanings, *(str(key) for run in runs for key in run.config)]))
    keys = [key for key in keys if any(key in run.config for run in runs)]
    head: list[dict[str, Any]] = []
    rest: list[dict[str, Any]] = []
    for key in keys:
        values = [_shown(run.config[key]) if key in run.config else _ABSENT for run in runs]
        row = {"key": key, "meaning": meanings.get(key, ""), "values": values}
        first = len(set(values)) > 1 if len(runs) > 1 else values[0] != defaults.get(key)
        (head if first else rest).append(row)
    head.sort(key=lambda row: row["key"] == "output_dir")  # it differs always, and says the least
    several = len(runs) > 1
    tables = [
        {"title": "Different between the runs" if several else "Not the default", "open": True, "rows": head},
        {"title": "The same in all runs" if several else "The default", "open": False, "rows": rest},
    ]
    return [table for table in tables if table["rows"]]


def phase_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """{phase, seconds}: the sums over timings.jsonl, a number for each run; the longest phase first."""
    phases = dict.fromkeys(key for run in runs for line in run.timings for key in line if key != "step")
    rows = []
    for phase in phases:
        seconds = [sum(number_of(line.get(phase)) or 0 for line in run.timings) for run in runs]
        rows.append({"phase": phase, "seconds": [number_of(value) for value in seconds]})
    return sorted(rows, key=lambda row: -sum(row["seconds"]))


def run_card(run: Run) -> dict[str, Any]:
    """{name, path, status, is_running, measures, facts} of a run; facts are pairs of a name and a text."""
    measures = []
    for name in ("greedy_accuracy", "sampled_accuracy", "greedy_reward", "sampled_reward"):
        values = [number_of(run.summary.get(f"{name}_{when}"), 4) for when in ("before", "after")]
        if None not in values:
            intervals = [_interval(run.summary.get(f"{name}_{when}_interval")) for when in ("before", "after")]
            measures.append({"name": name.replace("_", " "), "values": values, "intervals": intervals})
    rewards = [value for line in run.metrics if (value := number_of(line.get("reward"))) is not None]
    if rewards:
        fifth = max(1, len(rewards) // 5)
        ends = [number_of(sum(part) / len(part), 3) for part in (rewards[:fifth], rewards[-fifth:])]
        measures.append({"name": "reward of rollouts", "values": ends, "intervals": [None, None]})
    facts: list[tuple[str, str]] = [
        (key, _shown(run.config[key])) for key in ("model", "task", "loss", "seed") if key in run.config
    ]
    for key, value in run.summary.items():
        if value is None or re.search("_(before|after)(_|$)", key) or key in ("seed", "output_dir", "seconds"):
            continue
        if isinstance(value, dict):
            facts += [(f"{key} {name}", _shown(inner)) for name, inner in value.items()]
        else:
            facts.append((key, _shown(value)))
    if (seconds := number_of(run.summary.get("seconds"))) is not None:
        facts.append(("time", duration(seconds)))
    return {
        "name": run.name,
        "path": str(run.path),
        "status": run.status,
        "is_running": run.is_running and not run.is_finished,
        "measures": measures,
        "facts": [(str(name).replace("_", " "), value) for name, value in facts],
    }


def _interval(bounds: Any) -> list[float | int] | None:
    """The two bounds of an interval; None where a file has something else."""
    numbers = [number_of(bound) for bound in bounds] if isinstance(bounds, list) else []
    finite = [number for number in numbers if number is not None]
    return finite if len(finite) == len(numbers) == 2 else None


def _defaults(kind: type) -> dict[str, str]:
    values = {}
    for key in dataclasses.fields(kind):
        if key.default is not dataclasses.MISSING:
            values[key.name] = _shown(key.default)
        elif key.default_factory is not dataclasses.MISSING:
            values[key.name] = _shown(key.default_factory())
    return values


def _shown(value: Any) -> str:
    """A value as YAML would show it on one line."""
    return text_of(value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False), 2_000)
