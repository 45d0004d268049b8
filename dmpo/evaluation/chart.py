"""The results as a bar chart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def plot_cells(cells: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """A panel for each task: pass@k by generation length, a bar for each decoder and k, with its 95 % interval."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tasks = list(dict.fromkeys(cell["task"] for cell in cells))
    ks = [key for key in cells[0] if key.startswith("pass@")]
    figure, axes = pyplot.subplots(
        1, len(tasks), figsize=(2.2 + 3.6 * len(tasks), 3.8), layout="constrained", squeeze=False, sharey=True
    )
    for axis, task in zip(axes.flat, tasks, strict=True):
        own = [cell for cell in cells if cell["task"] == task]
        lengths = list(dict.fromkeys(cell["gen_length"] for cell in own))
        series = [(decoder, k) for decoder in dict.fromkeys(cell["decoder"] for cell in own) for k in ks]
        width = 0.8 / len(series)
        for number, (decoder, k) in enumerate(series):
            bars = [cell for cell in own if cell["decoder"] == decoder]
            places = [lengths.index(cell["gen_length"]) + (number + 0.5) * width - 0.4 for cell in bars]
            values = [cell[k]["value"] for cell in bars]
            reach = [
                [cell[k]["value"] - cell[k]["low"] for cell in bars],
                [cell[k]["high"] - cell[k]["value"] for cell in bars],
            ]
            label = " ".join(filter(None, (decoder, k if len(ks) > 1 or not decoder else "")))
            axis.bar(places, values, 0.92 * width, yerr=reach, capsize=2, color=f"C{number % 10}", label=label)
        axis.set_xticks(range(len(lengths)), [str(length or "") for length in lengths])
        examples = {cell["examples"] for cell in own}
        axis.set(title=f"{task}, {max(examples)} examples", xlabel="tokens of a completion" if any(lengths) else "")
        axis.set_axisbelow(True)
        axis.grid(alpha=0.25, axis="y")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set(ylim=(0, 1.02), ylabel=ks[0] if len(ks) == 1 else "solved")
    axes[0, 0].yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
    axes[0, -1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
