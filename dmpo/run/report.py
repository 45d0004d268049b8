"""The report of a run for people: banner, progress, a closing table, one example before and after, and plots."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from ..evaluation.held_out import Evaluation
from ..evaluation.intervals import Accuracy
from ..storage.terminal import make_console
from ..tasks import Task, judges
from .progress import Training

PHASES = ("rollout", "reward", "score", "update", "evaluate", "checkpoint")
_TITLE = 9  # the width of the titles of the banner


class Reporter:
    """Prints the banner, the progress and the messages. Only one rank is `visible`; the others print nothing."""

    def __init__(self, total: int, *, visible: bool = True) -> None:
        self.console = make_console(quiet=not visible)
        self.training = Training(self.console, total)

    def say(self, text: str) -> None:
        self.console.print(text)

    def banner(self, lines: Iterable[tuple[str, str]]) -> None:
        """Print lines with their titles; a line that is longer than the terminal is wide goes on below itself."""
        for title, text in lines:
            wrapped = textwrap.wrap(f"{title:<{_TITLE}}{text}", self.console.width, subsequent_indent=" " * _TITLE)
            self.console.print(Text("\n".join(wrapped)), soft_wrap=True)

    def step(self, metrics: dict[str, Any], completions_per_second: float, *, reports: bool = True) -> None:
        """A gradient step is done; where the output is no terminal, a step that `reports` has a line."""
        speed = f"{metrics['tokens_per_forward']:.1f} tokens/forward", f"{completions_per_second:.0f} completions/s"
        self.training.step(metrics, speed, reports=reports)

    def accuracy(self, step: int, evaluation: Evaluation) -> None:
        """Print one line for an evaluation. At the start it is of the test split, later of the validation split."""
        where = f"step {step:<4} validation" if step else "start     test      "
        sampled, greedy = (measure.text(measure.mean) for measure in (evaluation.sampled, evaluation.greedy))
        what = "" if isinstance(evaluation.sampled, Accuracy) else f"mean {evaluation.sampled.NAME} "
        self.say(f"{where}  {what}sampled {sampled}, greedy {greedy}")

    def closing(self, before: Evaluation, after: Evaluation, task: Task, summary: dict[str, Any]) -> None:
        """Print the accuracy (or mean reward) before and after training with 95 % intervals, and one example."""
        measure, rows = after.sampled.NAME, after.sampled.total
        what = "accuracy" if judges(task) else f"mean {measure} (the task cannot say what is solved)"
        self.say(f"[bold]Held-out {what}, {rows} test rows, 95 % intervals[/]")
        table = Table()
        for column in ("", "before", "after"):
            table.add_column(column, justify="left" if not column else "right", overflow="fold")
        for name in ("sampled", "greedy"):
            cells = []
            for evaluation in (before, after):
                of_name = getattr(evaluation, name)
                value, low, high = map(of_name.text, (of_name.mean, *of_name.interval()))
                cells.append(f"{value}  [{low}, {high}]".replace("[", r"\["))
            table.add_row(name, *cells)
        self.console.print(table)
        index = example_index(before, after, task)
        if index is not None and before.rows == after.rows:
            row = before.rows[index]
            which = "was wrong before training" if judges(task) else "has another completion after training"
            self.say(f"[bold]First test row that {which} (greedy)[/]")
            example = Table()
            example.add_column("before", overflow="fold")
            example.add_column("after", overflow="fold")
            example.add_row(task.show(before.completions[index], row), task.show(after.completions[index], row))
            self.console.print(example)
        if summary["skipped_steps"]:
            skipped = f"{summary['skipped_steps']} of {summary['steps']} steps were skipped"
            prefix = "" if summary["steps_taken"] else "No step was taken: "
            reason = "their loss or gradient was not finite. A smaller learning_rate, or dtype=float32, may help."
            self.say(f"[bold red]{prefix}{skipped}; {reason}[/]")
        self.say(
            f"{summary['seconds']:.0f} s on {summary['device']}, seed {summary['seed']}; see {summary['output_dir']}"
        )


def summarise(before: Evaluation, after: Evaluation) -> dict[str, Any]:
    """The accuracies (or mean rewards) and their 95 % intervals, with the keys of summary.json."""
    summary: dict[str, Any] = {"test_rows": after.sampled.total}
    for name in ("sampled", "greedy"):
        for when, evaluation in (("before", before), ("after", after)):
            measure = getattr(evaluation, name)
            summary[f"{name}_{measure.NAME}_{when}"] = measure.mean
            summary[f"{name}_{measure.NAME}_{when}_interval"] = list(measure.interval())
    return summary


def example_index(before: Evaluation, after: Evaluation, task: Task) -> int | None:
    """The index of the first row whose greedy completion was wrong before training; None if all were right.

    If the task cannot say what is solved, it is the first row with another completion after training.
    """
    if not judges(task):
        pairs = enumerate(zip(before.completions, after.completions, strict=False))
        return next((i for i, (old, new) in pairs if old != new), None)
    rows = zip(before.completions, before.rows, strict=True)
    return next((i for i, (text, row) in enumerate(rows) if not task.solved(text, row)), None)


def plot_run(
    metrics: list[dict[str, Any]], timings: list[dict[str, Any]], summary: dict[str, Any], title: str, path: Path
) -> None:
    """Write a figure with eight panels to `path`.

    Seven panels show values over steps: reward (and each of several), accuracy, ESS, log-ratio to the reference, token
    entropy, tokens per forward, and the mismatch of rollouts. The eighth shows the time of each phase.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps = [line["step"] for line in metrics]
    figure, axes = pyplot.subplots(2, 4, figsize=(16, 6.4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    reward, accuracy, ess, phases, ratio, entropy, speed, mismatch = axes.flat
    for axis, key, colour, panel_title in (
        (reward, "reward", "C0", "mean reward of rollouts"),
        (ess, "ess", "C3", "effective sample size / group size"),
        (ratio, "log_ratio", "C4", "log p_cur − log p_ref of rollouts (nats)"),
        (entropy, "entropy", "C5", "token entropy of the policy (nats)"),
        (speed, "tokens_per_forward", "C6", "tokens drawn per row-forward"),
        (mismatch, "rollout_mismatch", "C8", "rollout mismatch (nats a token)"),
    ):
        axis.plot(steps, [line[key] for line in metrics], color=colour)
        axis.set(title=panel_title)
    for key in dict.fromkeys(key for line in metrics for key in line if key.startswith("reward/")):
        reward.plot(steps, [line.get(key) for line in metrics], linewidth=1, label=key.removeprefix("reward/"))
        reward.legend(frameon=False, title="each reward, unweighted", fontsize="small", title_fontsize="small")
    ess.set(ylim=(0, 1))
    measure = "accuracy" if "greedy_accuracy_after" in summary else "reward"
    for name, colour in (("sampled", "C1"), ("greedy", "C2")):
        key = f"{name}_{measure}"
        points = [(m["step"], m[key]) for m in metrics if key in m]
        accuracy.plot(*zip(*points, strict=True) if points else ([], []), "o-", markersize=3, color=colour, label=name)
        ends = [summary[f"{key}_before"], summary[f"{key}_after"]]
        accuracy.plot([0, summary["steps"]], ends, "D", color=colour, markerfacecolor="white")
    accuracy.plot([], [], "D", color="grey", markerfacecolor="white", label="test rows, before and after")
    accuracy.legend(frameon=False, loc="lower right")
    if measure == "accuracy":
        accuracy.set(title="held-out accuracy", ylim=(0, 1.02))
        accuracy.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
    else:
        accuracy.set(title="mean reward of held-out rows")
    totals = {phase: sum(line.get(phase, 0.0) for line in timings) for phase in PHASES}
    totals = {phase: seconds for phase, seconds in totals.items() if seconds}
    bars = phases.barh(list(totals), list(totals.values()), color="C7")
    phases.bar_label(bars, fmt="%.1f s", padding=3)
    phases.invert_yaxis()
    phases.margins(x=0.18)
    phases.set(title="time per phase")
    for axis in axes.flat:
        if axis is not phases:
            axis.set_xlabel("gradient step")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
