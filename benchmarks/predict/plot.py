"""The plot of prediction.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.harness.chart import BLUE, GREY, figure
from benchmarks.predict.report import lines, seconds
from benchmarks.predict.rl_round import OURS, PUBLISHED
from benchmarks.predict.roofline import LIKELY


def draw(results: dict[str, Any], path: Path) -> None:
    """A round by phase as stacked bars, published beside ours on every device, for the first and a cached decoder."""
    rows = [(name, parts) for name, parts in lines(results) if name.startswith("round") and "prompt" not in parts[0]]
    title = "Prediction, not a measurement: one round of RL on LLaDA-8B"
    with figure(path, 1, 2, size=(11, 4.6), title=title) as panels:
        for axes, (name, parts) in zip(panels, (rows[0], rows[2]), strict=True):
            _bars(axes, results, parts)
            axes.set_title(name.removeprefix("round, "))
        panels[0].legend(frameon=False)


SHADES = {
    ("rollout", "trunk"): ("rollout: passes", 1.0),
    ("rollout", "head"): ("rollout: logits, draws", 0.45),
    ("score", None): ("score", 0.8),
    ("update", "trunk"): ("update: passes", 0.65),
    ("update", "head"): ("update: logits, loss", 0.25),
}


def _bars(axes: Any, results: dict[str, Any], parts: list[dict[str, Any]]) -> None:
    names = [device["name"] for device in results["devices"]]
    for offset, side, colour in ((-0.2, PUBLISHED.name, GREY), (0.2, OURS.name, BLUE)):
        places, base = [i + offset for i in range(len(names))], [0.0] * len(names)
        for (phase, stage), (label, shade) in SHADES.items():
            (part,) = (part for part in parts if part["phase"] == phase)
            spent = [seconds(results, LIKELY.name, name, side, stage, **part) for name in names]
            axes.bar(places, spent, 0.38, base, color=colour, alpha=shade, label=f"{side}, {label}")
            base = [low + high for low, high in zip(base, spent, strict=True)]
        for place, top in zip(places, base, strict=True):
            axes.annotate(f"{top:.0f}", (place, top), ha="center", va="bottom", fontsize=8)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("seconds a GPU, likely")
