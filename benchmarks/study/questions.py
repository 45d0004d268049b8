"""The questions of the study: the conditions of each, what is set against what, and what is plotted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .conditions import (
    BASELINES,
    COEFFICIENTS,
    DECODERS,
    GROUPS,
    HARD_BASELINES,
    HARD_GROUPS,
    LOWER_RATE,
    REUSE,
    RIVALS,
    at_lower_rate,
    default,
)

USUAL = default("sudoku")


@dataclass(frozen=True)
class Contrast:
    """A sum of test accuracies minus another, divided by `over`, taken seed by seed.

    headline: whether it is among the conclusions at the top of the report.
    """

    text: str
    plus: tuple[str, ...]
    minus: tuple[str, ...]
    over: int = 1
    headline: bool = True


@dataclass(frozen=True)
class Panel:
    """A plot: a quantity over samples used, a line a condition. quantity: sampled, greedy (validation accuracies), or
    a key of a record's `rounds`."""

    title: str
    quantity: str
    conditions: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """conditions: rows of its table; contrasts: its conclusions; columns: of the table beyond the accuracies;
    scanned_only: (task, objective) pairs of which only the scan for learning rates is run."""

    key: str
    title: str
    conditions: tuple[str, ...]
    contrasts: tuple[Contrast, ...]
    panels: tuple[Panel, ...]
    columns: tuple[str, ...] = ()
    scanned_only: tuple[tuple[str, str], ...] = ()


def against(reference: str, others: Iterable[str], *, headline: bool = True) -> list[Contrast]:
    """Each of the others minus the reference."""
    named = [(other, f"{other.partition('/')[2]} − {reference.partition('/')[2]}") for other in others]
    return [Contrast(text, (name,), (reference,), headline=headline) for name, text in named if name != reference]


def _baselines() -> Question:
    names = {(name, group): default("sudoku", group, name) for group in GROUPS for name in BASELINES}
    rows = {name: tuple(names[name, group] for group in GROUPS) for name in BASELINES}
    columns = {group: tuple(names[name, group] for name in BASELINES) for group in GROUPS}
    small, large = min(GROUPS), max(GROUPS)
    swapped = ("sudoku/none G=8 at 1e-4", "sudoku/negative G=8 at 2e-4")  # each at the other's best learning rate
    contrasts = [Contrast(f"{n} − none, mean over G", rows[n], rows["none"], len(GROUPS)) for n in BASELINES[1:]]
    contrasts.append(
        Contrast(
            f"(negative − none at G={small}) − (negative − none at G={large})",
            (names["negative", small], names["none", large]),
            (names["none", small], names["negative", large]),
        )
    )
    text = f"G={small} − G={large}, mean over baselines"
    contrasts.append(Contrast(text, columns[small], columns[large], len(BASELINES)))
    contrasts.append(Contrast("negative − none at G=8, both at 1e-4", (names["negative", 8],), swapped[:1]))
    contrasts.append(Contrast("negative − none at G=8, both at 2e-4", swapped[1:], (names["none", 8],)))
    for group in GROUPS:
        contrasts += against(names["none", group], columns[group], headline=False)
    return Question(
        "baseline",
        "Weight baselines and group size (the paper's figures 3 and 5)",
        (*names.values(), *swapped),
        tuple(contrasts),
        tuple(Panel(f"G = {group}", "sampled", columns[group]) for group in GROUPS),
        ("peak",),
    )


def _regime() -> Question:
    names = {(name, group): default("hard", group, name) for group in HARD_GROUPS for name in HARD_BASELINES}
    rows = {name: tuple(names[name, group] for group in HARD_GROUPS) for name in HARD_BASELINES}
    columns = {group: tuple(names[name, group] for name in HARD_BASELINES) for group in HARD_GROUPS}
    small, large = HARD_GROUPS
    contrasts = [
        Contrast(f"negative − none at G={group}", (names["negative", group],), (names["none", group],))
        for group in HARD_GROUPS
    ]
    contrasts += [
        Contrast(
            f"negative − none at G={group}, none at {LOWER_RATE}", (names["negative", group],), (at_lower_rate(group),)
        )
        for group in HARD_GROUPS
    ]
    contrasts += [
        Contrast("negative − none, mean over G", rows["negative"], rows["none"], len(HARD_GROUPS)),
        Contrast(
            f"(negative − none at G={small}) − (negative − none at G={large})",
            (names["negative", small], names["none", large]),
            (names["none", small], names["negative", large]),
        ),
        Contrast(f"G={small} − G={large}, mean over baselines", columns[small], columns[large], len(HARD_BASELINES)),
    ]
    shown = tuple(names.values())
    panels = tuple(Panel("", quantity, shown) for quantity in ("sampled", "greedy", "reward"))
    return Question(
        "regime",
        "Baselines and group size where the base rarely succeeds (the paper's figures 3 and 5)",
        (*shown, *map(at_lower_rate, HARD_GROUPS)),
        tuple(contrasts),
        panels,
        ("peak", "entropy", "distinct_in_group"),
    )


def _compared(key: str, title: str, others: Iterable[str], *columns: str) -> Question:
    names = (USUAL, *others)
    panels = (Panel("", "sampled", names), Panel("", "greedy", names))
    return Question(key, title, names, tuple(against(USUAL, names)), panels, columns)


def _rivals(key: str, title: str, task: str, scanned_only: tuple[tuple[str, str], ...] = ()) -> Question:
    names = tuple(default(task, objective=name) for name in RIVALS)
    panels = tuple(Panel("", quantity, names) for quantity in ("sampled", "greedy", "entropy", "distinct_in_group"))
    columns = ("peak", "entropy", "distinct_in_group")
    return Question(key, title, names, tuple(against(names[0], names)), panels, columns, scanned_only)


def _named(table: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"sudoku/{name}" for name in table)


QUESTIONS: tuple[Question, ...] = (
    _baselines(),
    _rivals(
        "loss",
        "WDCE against WDDO and against reward-maximising objectives: accuracy, entropy, diversity",
        "sudoku",
        (("sudoku", "wddo"),),
    ),
    _compared(
        "reuse",
        "Off-policy reuse: F gradient steps a round, the last K rounds kept",
        _named(REUSE),
        "samples",
        "steps",
        "peak",
    ),
    _compared("coefficient", "Fixed and adaptive proximal coefficient", _named(COEFFICIENTS), "coeff", "ess"),
    _compared(
        "decoder",
        "Decoders of the rollouts; all are evaluated with the same one",
        _named(DECODERS),
        "tokens_per_forward",
        "row_forwards",
    ),
    _rivals("countdown", "The same objectives on a second task, a small Countdown", "countdown"),
    _regime(),
)
