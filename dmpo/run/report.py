"""The report of a run for people: progress, a closing table, one example before and after training, and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ..evaluation.held_out import Evaluation
from ..storage.terminal import make_console
from ..tasks import Task

PHASES = ("rollout", "reward", "score", "update", "evaluate", "checkpoint")


class Reporter:
    """Prints the progress bar and the messages. Only one rank is `visible`; the others print nothing."""

    def __init__(self, total: int, *, visible: bool = True) -> None:
        self.console = make_console(quiet=not visible)
        self.progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=self.console,
            disable=not visible,
        )
        self.task = self.progress.add_task("step", total=total, status="")

    def say(self, text: str) -> None:
        self.console.print(text)

    def step(self, metrics: dict[str, Any], completions_per_second: float) -> None:
        """Advance the progress bar."""
        status = f"reward {metrics['reward']:.3f}  ESS {metrics['ess']:.2f}"
        speed = f"{metrics['tokens_per_forward']:.1f} tokens/forward  {completions_per_second:.0f} completions/s"
        self.progress.update(self.task, completed=metrics["step"], status=f"{status}  {speed}")

    def accuracy(self, step: int, evaluation: Evaluation) -> None:
        """Print one line for an evaluation. At the start it is of the test split, later of the validation split."""
        where = f"step {step:<4} validation" if step else "start     test      "
        self.say(f"{where}  sampled {evaluation.sampled.share:.1%}, greedy {evaluation.greedy.share:.1%}")

    def closing(self, before: Evaluation, after: Evaluation, task: Task, summary: dict[str, Any]) -> None:
        """Print the accuracy before and after training with 95 % intervals, and one example."""
        table = Table(title=f"Held-out accuracy, {after.sampled.total} test rows, 95 % intervals", title_justify="left")
        for column in ("", "before", "after"):
            table.add_column(column, justify="left" if not column else "right")
        for name in ("sampled", "greedy"):
            cells = []
            for evaluation in (before, after):
                accuracy = getattr(evaluation, name)
                low, high = accuracy.interval()
                cells.append(f"{accuracy.share:.1%}  [{low:.1%}, {high:.1%}]".replace("[", r"\["))
            table.add_row(name, *cells)
        self.console.print(table)
        index = example_index(before, after, task)
        if index is not None and before.rows == after.rows:
            row = before.rows[index]
            example = Table(title="First test row that was wrong before training (greedy)", title_justify="left")
            example.add_column("before")
            example.add_column("after")
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
    """The accuracies and their 95 % intervals, with the keys of summary.json."""
    summary: dict[str, Any] = {"test_rows": after.sampled.total}
    for name in ("sampled", "greedy"):
        for when, evaluation in (("before", before), ("after", after)):
            accuracy = getattr(evaluation, name)
            summary[f"{name}_accuracy_{when}"] = accuracy.share
            summary[f"{name}_accuracy_{when}_interval"] = list(accuracy.interval())
    return summary


def example_index(before: Evaluation, after: Evaluation, task: Task) -> int | None:
    """The index of the first row whose greedy completion was wrong before training; None if all were right."""
    rows = zip(before.completions, before.rows, strict=True)
    return next((i for i, (text, row) in enumerate(rows) if not task.solved(text, row)), None)


def plot_run(
    metrics: list[dict[str, Any]], timings: list[dict[str, Any]], summary: dict[str, Any], title: str, path: Path
) -> None:
    """Write a figure with eight panels to `path`.

    Seven panels show values over steps: reward, accuracy, ESS, log-ratio to the reference, token entropy, tokens per
    forward, and the mismatch of rollouts. The eighth shows the time of each phase.
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
    ess.set(ylim=(0, 1))
    for name, colour in (("sampled", "C1"), ("greedy", "C2")):
        points = [(m["step"], m[f"{name}_accuracy"]) for m in metrics if f"{name}_accuracy" in m]
        accuracy.plot(*zip(*points, strict=True) if points else ([], []), "o-", markersize=3, color=colour, label=name)
        ends = [summary[f"{name}_accuracy_before"], summary[f"{name}_accuracy_after"]]
        accuracy.plot([0, summary["steps"]], ends, "D", color=colour, markerfacecolor="white")
    accuracy.plot([], [], "D", color="grey", markerfacecolor="white", label="test rows, before and after")
    accuracy.legend(frameon=False, loc="lower right")
    accuracy.set(title="held-out accuracy", ylim=(0, 1.02))
    accuracy.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
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
