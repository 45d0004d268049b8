"""exact.md and a picture a question, from the records alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.markdown import table
from benchmarks.study.records import Key, Record
from benchmarks.study.statistics import Mean, contrast
from dmpo.storage.whole_files import write_text

from .conditions import QUESTIONS, Question

COLUMNS = {
    "kl_forward": "KL(p*‖p_θ)",
    "kl_reverse": "KL(p_θ‖p*)",
    "reward": "mean reward",
    "entropy": "entropy",
    "modes": "modes",
}
DIFFERENCE = "KL(p*‖p_θ) − the first's"


def write(records: Mapping[Key, Record], folder: Path) -> None:
    """exact.md, and a picture for each question with records."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "exact.md", markdown(records))
    for question in answered(records):
        plot(question, records, folder / f"{question.key}.png")


def answered(records: Mapping[Key, Record]) -> list[Question]:
    """The questions with records."""
    return [question for question in QUESTIONS if _of(question, records)]


def markdown(records: Mapping[Key, Record]) -> str:
    """The whole report."""
    lines = [
        "# Does the policy reach the target?",
        "",
        "All 256 completions of 4 tokens are listed, so the target p* ∝ p_ref·exp(r/α) and the policy's own "
        "distribution are known exactly. The policy is what `random_order` draws from. KL, reward and entropy are "
        "sums over all completions, in nats. A mode counts where p_θ ≥ p*/2. Cells hold the mean over seeds and its "
        "95 % t interval. The last column has the difference to the first condition of the same instance, seed by "
        "seed, where both drew as many completions. A run is WDCE without a baseline, with G = 256, F = 2, K = R = 4, "
        "c = 1, random_order and a learning rate of 5e-3 that falls on a cosine, unless its name says otherwise. The "
        "reward is a sum over tokens; in *answers* it is 1 for eight completions and 0 for all others.",
    ]
    for question in answered(records):
        lines += ["", f"## {question.title}", "", _table(question, records)]
        lines += ["", f"![{question.title}]({question.key}.png)"]
    return "\n".join(lines) + "\n"


def _of(question: Question, records: Mapping[Key, Record]) -> dict[str, list[Record]]:
    """Records of a question's conditions, those with some."""
    by_condition = {
        condition.name: [record for (name, _), record in records.items() if name == condition.name]
        for condition in question.conditions
    }
    return {name: found for name, found in by_condition.items() if found}


def _table(question: Question, records: Mapping[Key, Record]) -> str:
    """The conditions of each instance below its start, its target, and the condition that they are compared with."""
    of_question, rows = _of(question, records), list[list[str]]()
    for instance in dict.fromkeys(condition.instance for condition in question.conditions):
        names = [c.name for c in question.conditions if c.instance == instance and c.name in of_question]
        if not names:
            continue
        first, *others = names
        start = of_question[first][0]
        for text, point in (("before", start["curve"][0]), ("target", start["target"])):
            rows.append([f"*{text}, {instance}*", "", "", *(_plain(point[column]) for column in COLUMNS), ""])
        for name in names:
            ends = [record["curve"][-1] for record in of_question[name]]
            cells = [_cell(Mean.of([float(end[column]) for end in ends])) for column in COLUMNS]
            difference = _difference(of_question, name, first) if name in others else ""
            rows.append([name, str(len(ends)), f"{ends[0]['completions']:,}", *cells, difference])
    return table(["condition", "seeds", "completions", *COLUMNS.values(), DIFFERENCE], rows)


def _difference(of_question: Mapping[str, Sequence[Record]], name: str, first: str) -> str:
    """KL(p*‖p_θ) of a condition minus the first one's, seed by seed; empty where they drew unequal completions."""
    ends = {key: {record["seed"]: record["curve"][-1] for record in of_question[key]} for key in (name, first)}
    if len({end["completions"] for of_seeds in ends.values() for end in of_seeds.values()}) > 1:
        return ""
    found = contrast({key: {s: end["kl_forward"] for s, end in ends[key].items()} for key in ends}, [name], [first])
    return "" if found is None else _cell(found)


def _plain(value: float) -> str:
    return f"{value:.3g}"


def _cell(mean: Mean) -> str:
    return _plain(mean.value) + ("" if mean.low is None or mean.high is None else f" [{mean.low:.3g}, {mean.high:.3g}]")


def plot(question: Question, records: Mapping[Key, Record], path: Path) -> None:
    """KL(p* ‖ p_θ) over completions drawn and over row forwards, means over seeds in a band from lowest to highest."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10.4, 3.8), layout="constrained", sharey=True)
    figure.suptitle(question.title, fontsize=11)
    for axis, cost in zip(axes, ("completions", "forwards"), strict=True):
        for number, (name, found) in enumerate(_of(question, records).items()):
            _draw(axis, name, found, cost, f"C{number}")
        axis.set(xlabel=f"{cost} drawn" if cost == "completions" else "rows through the model", yscale="log")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set(ylabel="KL(p* ‖ p_θ), nats")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=80, metadata={"Software": None})
    pyplot.close(figure)


def _draw(axis: Any, name: str, found: Sequence[Record], cost: str, colour: str) -> None:
    places = [point[cost] for point in found[0]["curve"]]
    curves = [[point["kl_forward"] for point in record["curve"]] for record in found]
    columns = list(zip(*curves, strict=True))
    axis.plot(places, [statistics.fmean(column) for column in columns], "-o", color=colour, markersize=3, label=name)
    low, high = ([choose(column) for column in columns] for choose in (min, max))
    axis.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
