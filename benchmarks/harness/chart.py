"""The common look of all plots of the benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BLUE, GREY = "#2563eb", "#b0b7c3"  # ours, published


@contextmanager
def figure(
    path: Path, rows: int = 1, columns: int = 1, *, size: tuple[float, float], title: str
) -> Iterator[list[Any]]:
    """A figure of rows · columns axes, written to `path` at the end."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn, grid = plt.subplots(rows, columns, figsize=size, constrained_layout=True, squeeze=False)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3, which="both")
    drawn.suptitle(title)
    yield list(grid.flat)
    drawn.savefig(path, dpi=110)
    plt.close(drawn)
