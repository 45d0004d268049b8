"""The curves as a picture: accuracy over tokens a forward, and over positions a token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .comparison import accuracy, positions_a_token, tokens_a_forward
from .measure import Record


def plot(records: Sequence[Record], title: str, path: Path) -> None:
    """One panel for decoders of whole blocks, one for shorter blocks; `records` are of one task and temperature."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    short = [record for record in records if "blocks of" in record["curve"]]
    whole = [record for record in records if record not in short]
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    figure.suptitle(title, fontsize=11)
    _panel(axes[0], whole, tokens_a_forward, "tokens a forward")
    _panel(axes[1], [*short, *(r for r in whole if r["curve"] == "topk")], positions_a_token, "positions a token")
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)


def _panel(axis: Any, records: Sequence[Record], cost: Any, label: str) -> None:
    for number, curve in enumerate(dict.fromkeys(record["curve"] for record in records)):
        own = [record for record in records if record["curve"] == curve]
        places = sorted((cost(record), accuracy(record).share, *accuracy(record).interval()) for record in own)
        across, shares, lows, highs = zip(*places, strict=True)
        axis.plot(across, shares, "-o", color=f"C{number % 10}", markersize=3, label=curve)
        axis.fill_between(across, lows, highs, color=f"C{number % 10}", alpha=0.1, linewidth=0)
    axis.set(xlabel=label, ylabel="held-out rows solved", xscale="log")
    axis.legend(frameon=False, fontsize=7)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
