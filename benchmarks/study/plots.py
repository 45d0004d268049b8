"""One picture a question: curves over completions drawn, means over seeds in a band from the lowest to the highest."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .conditions import SCAN_SEED
from .questions import Panel, Question
from .records import Key, Record

LABELS = {
    "sampled": "sampled validation accuracy",
    "greedy": "greedy validation accuracy",
    "entropy": "token entropy of the policy (nats)",
    "distinct_in_group": "distinct completions / group size",
    "reward": "mean reward of rollouts",
}
Curve = list[tuple[float, float]]  # completions drawn before, value


def curve(record: Record, quantity: str) -> Curve:
    """A quantity of one run over the completions that training has used."""
    if quantity in ("sampled", "greedy"):
        return [(point["samples"], point[quantity] / point["rows"]) for point in record["validation"]]
    numbers = record["rounds"][quantity]
    return [(i * record["samples"] / len(numbers), value) for i, value in enumerate(numbers) if value is not None]


def plot(question: Question, records: Mapping[Key, Record], path: Path) -> None:
    """Draw the panels of a question side by side, two rows of them where there are more than three."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = question.panels
    rows = 1 if len(panels) <= 3 else 2
    columns = -(-len(panels) // rows)
    size = (5.2 * columns, 3.8 * rows)
    alike = len({panel.quantity for panel in panels}) == 1
    figure, axes = pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, sharey=alike)
    figure.suptitle(question.title, fontsize=11)
    for axis, panel in zip(axes.flat, panels, strict=False):
        _draw(axis, panel, records)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)


def _draw(axis: Any, panel: Panel, records: Mapping[Key, Record]) -> None:
    for number, name in enumerate(panel.conditions):
        found = [record for (condition, seed), record in records.items() if condition == name and seed != SCAN_SEED]
        if not found:
            continue
        points: dict[float, list[float]] = {}
        for record in found:
            for samples, value in curve(record, panel.quantity):
                points.setdefault(samples, []).append(value)
        places = sorted(points)
        colour = f"C{number % 10}"
        dashes = "-" if number < 10 else "--"
        means = [statistics.fmean(points[place]) for place in places]
        axis.plot(places, means, f"{dashes}o", color=colour, markersize=3, label=name.partition("/")[2])
        low, high = ([choose(points[place]) for place in places] for choose in (min, max))
        axis.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
    axis.set(title=panel.title, xlabel="completions drawn", ylabel=LABELS[panel.quantity])
    axis.legend(frameon=False, fontsize=8)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
