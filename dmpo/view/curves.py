"""The curves of the page: metrics in groups, each curve with its meaning, and few enough points to draw them fast."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .meanings import metric_meaning
from .values import number_of

MOST_POINTS = 4_000  # of a metric, over all runs

# A title, the metrics in their order (a pattern may stand for several), and whether the group is open at first.
GROUPS: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    (
        "At a glance",
        (
            "reward",
            "reward/.*",
            "sampled_(accuracy|reward)",
            "greedy_(accuracy|reward)",
            "ess",
            "(held_out_)?loss",
            "entropy",
        ),
        True,
    ),
    (
        "The policy",
        ("distinct_in_group", "reward_std_in_group", "reward_std/.*", "equal_rewards", "log_ratio", "rollout_mismatch"),
        True,
    ),
    (
        "The step",
        (
            *("learning_rate", "grad_norm", "clipped", "coeff", "clip_share", "kl", "skipped", "left_out"),
            *("left_out_equal", "idle", "masked", "attention_reach"),
        ),
        True,
    ),
    (
        "Decoding",
        (
            *("tokens_per_forward", "row_forwards", "forwards", "prompts_resampled", "path_log_prob_cur"),
            *("path_log_prob_ref", "reward_failures"),
        ),
        False,
    ),
    ("Buffer", ("age", "buffer_groups", "buffer_dropped"), False),
    ("Seconds of a step", ("seconds/.*",), False),
    ("Other metrics", (".*",), False),
)
UNCHANGED = "Did not change"
_ALWAYS_DRAWN = {"reward", "sampled_accuracy", "greedy_accuracy"}


def curve_groups(runs: Sequence[Any]) -> list[dict[str, Any]]:
    """Groups {title, open, curves}; a curve is {name, meaning, series}, a series {source, shape, x, y}.

    Metrics that have one value throughout all runs stand in a group of their own. shape: line; points for a value that
    few steps have; ends for an accuracy on test rows before and after training.

    Args:
        runs: objects with `metrics`, `timings` (lists of objects with `step`) and `summary`.
    """
    names = dict.fromkeys(name for run in runs for line in run.metrics for name in line if name != "step")
    names |= dict.fromkeys(f"seconds/{phase}" for run in runs for line in run.timings for phase in line)
    names.pop("seconds/step", None)
    groups: list[dict[str, Any]] = [{"title": title, "open": opened, "curves": []} for title, _, opened in GROUPS]
    most = max(200, min(2_000, MOST_POINTS // len(runs)))
    unchanged: list[dict[str, Any]] = []
    for number, name in _in_order(names):
        series = [one for index, run in enumerate(runs) for one in _series(run, index, name, most)]
        values = {value for one in series for value in one["y"] if value is not None}
        if not values:
            continue
        curve = {"name": name, "meaning": _meaning(name), "series": series}
        if len(values) == 1 and name not in _ALWAYS_DRAWN:
            unchanged.append({**curve, "value": values.pop()})
        else:
            groups[number]["curves"].append(curve)
    groups.append({"title": UNCHANGED, "open": False, "curves": unchanged})
    return [group for group in groups if group["curves"]]


def _in_order(names: Iterable[str]) -> list[tuple[int, str]]:
    """(number of the group, name) in the order of `GROUPS`; names that one pattern stands for keep their order."""
    places = []
    for name in names:
        for number, (_, patterns, _) in enumerate(GROUPS):
            rank = next((rank for rank, pattern in enumerate(patterns) if re.fullmatch(pattern, name)), None)
            if rank is not None:
                places.append((number, rank, name))
                break
    return [(number, name) for number, _, name in sorted(places, key=lambda place: place[:2])]


def _meaning(name: str) -> str:
    phase = name.removeprefix("seconds/")
    return f"seconds of the phase {phase} since the step before" if phase != name else metric_meaning(name)


def _series(run: Any, index: int, name: str, most: int) -> list[dict[str, Any]]:
    phase = name.removeprefix("seconds/")
    lines, key = (run.metrics, name) if phase == name else (run.timings, phase)
    x, y = _points(lines, key)
    series = []
    if any(value is not None for value in y):
        few = 2 * len(y) <= len(lines)
        x, y = thin(x, y, most)
        series.append({"source": index, "shape": "points" if few else "line", "x": x, "y": y})
    ends = [number_of(run.summary.get(f"{name}_{when}")) for when in ("before", "after")]
    steps = number_of(run.summary.get("steps"))
    if None not in (*ends, steps):
        series.append({"source": index, "shape": "ends", "x": [0, steps], "y": ends})
    return series


def _points(lines: Sequence[Mapping[str, Any]], key: str) -> tuple[list[Any], list[Any]]:
    points = [(line.get("step"), number_of(line[key])) for line in lines if key in line]
    return [step for step, _ in points], [value for _, value in points]


def thin(x: list[Any], y: list[Any], most: int) -> tuple[list[Any], list[Any]]:
    """At most `most` of the points: of each stretch of steps the lowest and the highest value, so that no peak is lost.

    A point without a value (a gap in the curve) stays where its stretch has nothing else.
    """
    if len(y) <= most:
        return x, y
    stretch = -(-len(y) // (most // 2))
    kept: list[int] = []
    for start in range(0, len(y), stretch):
        places = range(start, min(start + stretch, len(y)))
        valued = [place for place in places if y[place] is not None] or [start]
        kept += sorted({min(valued, key=lambda place: y[place] or 0), max(valued, key=lambda place: y[place] or 0)})
    return [x[place] for place in kept], [y[place] for place in kept]
