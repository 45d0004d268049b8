"""The progress of a run: a bar as wide as the terminal allows, or plain lines where the output is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task
from rich.text import Text

_BAR = 16


class Training:
    """Shows the steps of a run on a console.

    In a terminal there is one line that changes. Elsewhere, as in a log file, each reported step is a line of text.
    """

    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total = console, total
        self._progress = Progress(_Line(console), console=console, disable=console.quiet or not console.is_terminal)
        self._task = self._progress.add_task("step", total=total, status=())
        self._first, self._start = 0, time.perf_counter()

    @contextmanager
    def from_step(self, step: int) -> Iterator[None]:
        """The context of the training loop, which begins after gradient step `step`."""
        self._first, self._start = step, time.perf_counter()
        self._progress.reset(self._task, total=self._total, completed=step)
        with self._progress:
            yield

    def step(self, metrics: dict[str, Any], speeds: Sequence[str], *, reports: bool) -> None:
        """A step is done. `speeds` are for the terminal, a plain line is for a step that `reports`."""
        if self._console.is_terminal:
            of_dmpo = (("reward", "reward", ".3f"), ("ESS", "ess", ".2f"))
            shown = [f"{title} {metrics[name]:{form}}" for title, name, form in of_dmpo if name in metrics]
            status = [*(shown or [f"loss {metrics['loss']:.4g}"]), *speeds]
            self._progress.update(self._task, completed=metrics["step"], status=status)
        elif reports:
            self._console.print(Text(self._plain(metrics)), soft_wrap=True)

    def _plain(self, metrics: dict[str, Any]) -> str:
        seconds, done = time.perf_counter() - self._start, metrics["step"]
        left = seconds / max(1, done - self._first) * (self._total - done)
        own = [f"{name} {metrics[name]:.3f}" for name in metrics if name.startswith("reward/")]
        values = [
            f"step {done}/{self._total}",
            f"loss {metrics['loss']:.4g}",
            *([f"reward {metrics['reward']:.3f}"] if "reward" in metrics else []),
            *own,
            f"learning rate {metrics['learning_rate']:.3g}",
            f"gradient norm {metrics['grad_norm']:.3g}",
            *([f"ESS {metrics['ess']:.2f}"] if "ess" in metrics else []),
            f"{seconds:.1f} s",
            f"left {clock(left)}",
        ]
        return "  ".join(values + (["skipped"] if metrics.get("skipped") else []))


class _Line(ProgressColumn):
    """The whole line of a bar. What does not fit beside the more important parts is left out, never cut."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def render(self, task: Task) -> Text:
        status = [Text(part) for part in task.fields["status"]]
        left = task.time_remaining
        parts = [  # in their order in the line, each with its rank of importance
            (0, Text(f"step {task.completed:.0f}/{task.total:.0f}")),
            (5, self._bar(task)),
            (4, Text(clock(task.elapsed or 0.0))),
            (2, Text(f"left {'-:--:--' if left is None else clock(left)}")),
            *(
                (rank, part) for rank, part in zip((1, 3, 6, 7), status, strict=False)
            ),  # no status before the first step
        ]
        room, chosen = self._console.width, set[int]()
        for i in sorted(range(len(parts)), key=lambda i: parts[i][0]):
            width = parts[i][1].cell_len + (2 if chosen else 0)
            if width > room:
                break
            chosen.add(i)
            room -= width
        return Text("  ").join(parts[i][1] for i in sorted(chosen))

    def _bar(self, task: Task) -> Text:
        full = int(_BAR * min(1.0, task.completed / max(1, task.total or 1)))
        sign, rest = ("-", " ") if self._console.options.ascii_only else ("━", "━")
        return Text.assemble((sign * full, "bar.complete"), (rest * (_BAR - full), "bar.back"))


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    return str(timedelta(seconds=round(seconds)))
