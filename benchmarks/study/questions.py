"""The questions of the study: the conditions of each, what is set against what, and what is plotted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .conditions import BASELINES, COEFFICIENTS, DECODERS, GROUPS, REUSE, SECOND, default

USUAL = default("sudoku")


@dataclass(frozen=True)
class Contrast:
    """A sum of test accuracies minus another, taken seed by seed."""

    text: str
    plus: tuple[str, ...]
    minus: tuple[str, ...]


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


def against(reference: str, others: Iterable[str]) -> tuple[Contrast, ...]:
    """Each of the others minus the reference."""
    return tuple(
        Contrast(f"{other.partition('/')[2]} − {reference.partition('/')[2]}", (other,), (reference,))
        for other in others
        if other != reference
    )


def _groups() -> Question:
    names = {(name, group): default("sudoku", group, name) for group in GROUPS for name in BASELINES}
    contrasts = [c for group in GROUPS for c in against(names["none", group], (names[n, group] for n in BASELINES[1:]))]
    swapped = ("sudoku/none G=8 at 1e-4", "sudoku/negative G=8 at 2e-4")  # each at the other's learning rate
    contrasts += against(swapped[0], (names["negative", 8],)) + against(names["none", 8], (swapped[1],))
    small, large = min(GROUPS), max(GROUPS)
    contrasts.append(
        Contrast(
            f"(negative − none at G={small}) − (negative − none at G={large})",
            (names["negative", small], names["none", large]),
            (names["none", small], names["negative", large]),
        )
    )
    panels = [Panel(f"G = {g}", "sampled", tuple(names[n, g] for n in BASELINES)) for g in GROUPS]
    return Question(
        "group",
        "Weight baselines and group size (the paper's figures 3 and 5)",
        (*names.values(), *swapped),
        tuple(contrasts),
        tuple(panels),
        ("peak",),
    )


def _compared(
    key: str, title: str, others: Iterable[str], *columns: str, panels: tuple[Panel, ...] = (), scanned: str = ""
) -> Question:
    names = (USUAL, *others)
    shown = panels or (Panel("", "sampled", names), Panel("", "greedy", names))
    return Question(key, title, names, against(USUAL, names), shown, columns, (("sudoku", scanned),) if scanned else ())


def _named(table: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"sudoku/{name}" for name in table)


def _second() -> Question:
    names = {(name, group): default("countdown", group, name) for name, group in SECOND}
    usual, rivals = names["negative", 8], tuple(names[name, 8] for name in ("none", "wddo 1/G", "wd1", "diffu_grpo"))
    contrasts = [*against(usual, rivals)]
    contrasts += [c for group in (4, 16) for c in against(names["none", group], (names["negative", group],))]
    quantities = ("sampled", "greedy", "entropy", "distinct_in_group")
    return Question(
        "countdown",
        "The second task: a small Countdown",
        tuple(names.values()),
        tuple(contrasts),
        tuple(Panel("", quantity, (usual, *rivals)) for quantity in quantities),
        ("peak", "entropy", "distinct_in_group"),
    )


_RIVALS = tuple(default("sudoku", objective=name) for name in ("none", "wddo 1/G", "wd1", "diffu_grpo"))
QUESTIONS: tuple[Question, ...] = (
    _groups(),
    _compared(
        "loss",
        "WDCE against WDDO",
        (default("sudoku", objective="none"), "sudoku/R=4", default("sudoku", objective="wddo 1/G")),
        scanned="wddo",
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
    _compared(
        "entropy",
        "Entropy and diversity of DMPO and of reward-maximising objectives",
        _RIVALS,
        "entropy",
        "distinct_in_group",
        panels=tuple(
            Panel("", quantity, (USUAL, *_RIVALS)) for quantity in ("sampled", "greedy", "entropy", "distinct_in_group")
        ),
    ),
    _second(),
)
