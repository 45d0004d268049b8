"""The report of a run for people: banner, progress, a closing table, one example before and after."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from ..evaluation.demonstrations import SFTEvaluation
from ..evaluation.held_out import Evaluation
from ..evaluation.intervals import Accuracy
from ..storage.terminal import make_console
from ..tasks import Task, judges
from .progress import Training

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

    def step(self, metrics: dict[str, Any], speeds: Sequence[str], *, reports: bool = True) -> None:
        """A gradient step is done; where the output is no terminal, a step that `reports` has a line."""
        self.training.step(metrics, speeds, reports=reports)

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
        if summary.get("idle_steps"):
            prefix = "" if summary["steps_taken"] else "No step was taken: "
            idle = f"{summary['idle_steps']} of {summary['steps']} steps had nothing to learn from"
            reason = "the rewards of every group agreed. A larger num_generations or resample_prompts may help."
            self.say(f"[bold red]{prefix}{idle}; {reason}[/]")
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


def summarise_demonstrations(before: SFTEvaluation, after: SFTEvaluation) -> dict[str, Any]:
    """The losses before and after, and what `summarise` says of the accuracies, for summary.json."""
    summary: dict[str, Any] = {"held_out_loss_before": before.loss, "held_out_loss_after": after.loss}
    if before.answers is None or after.answers is None:
        return summary | {"test_rows": after.rows}
    return summary | summarise(before.answers, after.answers)


def example_index(before: Evaluation, after: Evaluation, task: Task) -> int | None:
    """The index of the first row whose greedy completion was wrong before training; None if all were right.

    If the task cannot say what is solved, it is the first row with another completion after training.
    """
    if not judges(task):
        pairs = enumerate(zip(before.completions, after.completions, strict=False))
        return next((i for i, (old, new) in pairs if old != new), None)
    rows = zip(before.completions, before.rows, strict=True)
    return next((i for i, (text, row) in enumerate(rows) if not task.solved(text, row)), None)
