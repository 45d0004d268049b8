"""The report of the run on a real model: a table a seed, means over seeds, curves, and answers before and after."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.harness.chart import BLUE, GREY, figure
from benchmarks.harness.markdown import table
from benchmarks.study.statistics import Mean
from dmpo.storage.whole_files import write_text

from .two_numbers import right

COMMAND = "python -m benchmarks.real"


@dataclass(frozen=True)
class Record:
    """What the runs of one seed left behind: their summaries, the lines of their logs, answers of the merged model."""

    seed: int
    sft: dict[str, Any]
    dmpo: dict[str, Any]
    metrics: dict[str, list[dict[str, Any]]]
    held_out: dict[str, list[dict[str, Any]]]
    completions: list[dict[str, Any]]
    answers: list[dict[str, Any]]
    day: str  # on which it ended


def records_of(folder: Path) -> list[Record]:
    """The seeds that are complete, in order."""
    homes = sorted(folder.glob("seed-*"), key=lambda path: int(path.name.removeprefix("seed-")))
    return [_record(home) for home in homes if (home / "answers.jsonl").exists()]


def _record(home: Path) -> Record:
    runs = ("sft", "dmpo")
    summaries = {run: json.loads((home / run / "summary.json").read_text(encoding="utf-8")) for run in runs}
    return Record(
        int(home.name.removeprefix("seed-")),
        **summaries,
        metrics={run: _lines(home / run / "metrics.jsonl") for run in runs},
        held_out={run: _lines(home / run / "held_out.jsonl") for run in runs},
        completions=_lines(home / "dmpo/completions.jsonl"),
        answers=_lines(home / "answers.jsonl"),
        day=date.fromtimestamp((home / "answers.jsonl").stat().st_mtime).isoformat(),
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(records: Sequence[Record], folder: Path) -> None:
    """real.md and real.png."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "real.md", markdown(records))
    plot(records, folder / "real.png")


def markdown(records: Sequence[Record]) -> str:
    """The whole report."""
    first = records[0]
    rows = first.dmpo["test_rows"]
    lines = [
        "# SmolLM2-135M: converted, fine-tuned, then DMPO",
        "",
        f"`{COMMAND} --seeds {' '.join(str(record.seed) for record in records)}`. "
        "The task: two numbers with a given sum, 400+57 for 457. A third of the answers of the "
        "fine-tuning take the hundreds as the first number, the others take any number. The reward of DMPO is 1 for "
        f"numbers that have the sum. Accuracies are of {rows} sums that neither run has seen.",
        "",
        "## In short",
        "",
        in_short(records),
        "",
        "## Each seed",
        "",
        table(
            ("seed", "fine-tuned, sampled", "after DMPO, sampled", "ratio", "fine-tuned, greedy", "after DMPO, greedy"),
            [*map(_row, records), *([_means(records)] if len(records) > 1 else [])],
        ),
        "",
        "The brackets of a seed are 95 % intervals over the sums, the last line's over seeds.",
        "",
        table(("seed", "fine-tuning, minutes", "DMPO, minutes", "loss before", "loss after"), map(_times, records)),
        "",
        "![curves](real.png)",
        "",
        f"## Rollouts of seed {first.seed}",
        "",
        "Sampled completions of the first prompt of each round.",
        "",
        table(("gradient step", "sum", "completions"), _rolled_out(first)),
        "",
        f"## Greedy answers to held-out sums, seed {first.seed}",
        "",
        table(("sum", "fine-tuned", "after DMPO"), _answered(first)),
        "",
        "## What the merged model says in a chat",
        "",
        table(
            ("sum", "answer"),
            [
                (str(line["number"]), _judged({**line, "solved": right(line["completion"], line["number"])}))
                for line in first.answers
            ],
        ),
        "",
    ]
    return "\n".join(lines)


def in_short(records: Sequence[Record]) -> str:
    """Accuracies before and after DMPO, and what they cost."""

    def row(name: str) -> tuple[str, ...]:
        before, after = ([record.dmpo[f"{name}_accuracy_{when}"] for record in records] for when in ("before", "after"))
        gains = [100 * (end - start) for start, end in zip(before, after, strict=True)]
        return name, percent(before), percent(after), mean(gains, 1)

    minutes = sum(record.sft["seconds"] + record.dmpo["seconds"] for record in records) / len(records) / 60
    seeds = f"seed {records[0].seed}" if len(records) == 1 else f"mean of {len(records)} seeds"
    head = (f"{records[0].dmpo['test_rows']} held-out sums, {seeds}", "fine-tuned", "after DMPO", "gain, points")
    rows = [row(name) for name in ("sampled", "greedy")]
    dmpo = records[0].dmpo
    device = f"{os.cpu_count()} CPU cores" if dmpo["device"] == "cpu" else dmpo["device"]
    brackets = "" if len(records) == 1 else " Brackets: 95 % intervals over seeds."
    times = f"{minutes:.0f} minutes a seed on {device}, torch {dmpo['torch']}, {records[-1].day}.{brackets}"
    return f"{table(head, rows)}\n\n{times}"


def _row(record: Record) -> tuple[str, ...]:
    sampled = (_accuracy(record, "sampled", "before"), _accuracy(record, "sampled", "after"))
    ratio = _ratio(record)
    greedy = (_accuracy(record, "greedy", "before"), _accuracy(record, "greedy", "after"))
    return str(record.seed), *sampled, f"{ratio:.2f}", *greedy


def _ratio(record: Record) -> float:
    before = float(record.dmpo["sampled_accuracy_before"])
    return float(record.dmpo["sampled_accuracy_after"]) / before if before else float("inf")


def _accuracy(record: Record, name: str, when: str) -> str:
    low, high = record.dmpo[f"{name}_accuracy_{when}_interval"]
    return f"{100 * record.dmpo[f'{name}_accuracy_{when}']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _means(records: Sequence[Record]) -> tuple[str, ...]:
    def of(name: str) -> list[str]:
        return [percent([record.dmpo[f"{name}_accuracy_{when}"] for record in records]) for when in ("before", "after")]

    return "mean", *of("sampled"), mean([_ratio(record) for record in records], 2), *of("greedy")


def mean(values: Sequence[float], digits: int) -> str:
    """The mean of seeds with its 95 % interval, which one seed does not have."""
    found = Mean.of(values)
    interval = "" if found.low is None else f" [{found.low:.{digits}f}, {found.high:.{digits}f}]"
    return f"{found.value:.{digits}f}{interval}"


def percent(shares: Sequence[float]) -> str:
    """The mean of shares of seeds in percent; its 95 % interval, which is cut to what a share can be."""
    found = Mean.of([100 * share for share in shares])
    if found.low is None or found.high is None:
        return f"{found.value:.1f} %"
    return f"{found.value:.1f} % [{max(found.low, 0):.1f}, {min(found.high, 100):.1f}]"


def _times(record: Record) -> tuple[str, ...]:
    minutes = (f"{summary['seconds'] / 60:.0f}" for summary in (record.sft, record.dmpo))
    losses = (f"{record.sft[f'held_out_loss_{when}']:.2f}" for when in ("before", "after"))
    return str(record.seed), *minutes, *losses


def _rolled_out(record: Record) -> list[tuple[str, str, str]]:
    """What the run logged of its rollouts: the completions of a prompt in a row."""
    of_prompt: dict[tuple[int, str], list[str]] = {}
    for line in record.completions:
        said = _judged({**line, "solved": line["reward"] > 0})
        of_prompt.setdefault((line["step"], line["prompt"]), []).append(said)
    return [(str(step), _question(prompt), ", ".join(said)) for (step, prompt), said in of_prompt.items()]


def _answered(record: Record) -> list[tuple[str, str, str]]:
    """The sums of the test that the run logged, with the greedy answers before and after DMPO."""
    lines = [line for line in record.held_out["dmpo"] if line["split"] == "test"]
    last = record.dmpo["steps"]
    of_step: dict[int, dict[int, dict[str, Any]]] = {step: {} for step in (0, last)}
    for line in lines:
        of_step[line["step"]][line["index"]] = line
    shown = sorted(of_step[0].keys() & of_step[last].keys())
    return [
        (_question(of_step[0][index]["prompt"]), _judged(of_step[0][index]), _judged(of_step[last][index]))
        for index in shown
    ]


def _question(prompt: str) -> str:
    return prompt.rpartition("user: ")[2]


def _judged(line: dict[str, Any]) -> str:
    return line["completion"] + ("" if line["solved"] else " (wrong)")


def plot(records: Sequence[Record], path: Path) -> None:
    """The loss of the fine-tuning; rewards of the rollouts, and accuracies on held-out sums, over DMPO."""
    with figure(path, 1, 2, size=(9, 3.2), title="SmolLM2-135M: two numbers with a given sum") as (tuning, training):
        for record in records:
            sft, dmpo = record.metrics["sft"], record.metrics["dmpo"]
            tuning.plot([line["step"] for line in sft], [line["loss"] for line in sft], color=GREY, linewidth=1)
            rewards = [(line["step"], line["reward"]) for line in dmpo if "reward" in line]
            training.plot(*zip(*rewards, strict=True), color=GREY, linewidth=1)
            ends = [100 * record.dmpo[f"sampled_accuracy_{when}"] for when in ("before", "after")]
            training.plot([0, record.dmpo["steps"]], [end / 100 for end in ends], "o-", color=BLUE)
        tuning.set(xlabel="gradient step of the fine-tuning", ylabel="loss", yscale="log")
        training.set(xlabel="gradient step of DMPO", ylabel="share that is right", ylim=(0, 1))
        training.text(
            0.02, 0.94, "rollouts (grey), held-out sums, sampled (blue)", transform=training.transAxes, fontsize=8
        )
