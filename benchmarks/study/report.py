"""study.md: a table, conclusions and a plot for each question, all computed from the records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from benchmarks.harness.markdown import table
from dmpo.storage.whole_files import write_text

from .conditions import (
    LEARNING_RATES,
    SCAN_SEED,
    SEEDS,
    SIZES,
    TEST_ROWS,
    VALIDATION_ROWS,
    scan_conditions,
    scan_name,
)
from .plots import plot
from .questions import QUESTIONS, Question
from .records import Key, Record
from .statistics import Mean, contrast

Values = Mapping[str, Mapping[int, float]]  # condition → seed → value
ENDS = {"entropy": "entropy", "distinct_in_group": "distinct"}  # of these the last round counts
COLUMNS = {
    "samples": "completions",
    "steps": "gradient steps",
    "peak": "best validation",
    "coeff": "c, mean",
    "ess": "ESS, mean",
    "tokens_per_forward": "tokens a row-forward",
    "row_forwards": "row-forwards",
    "entropy": "entropy at the end, nats",
    "distinct_in_group": "distinct at the end",
}


def write(records: Mapping[Key, Record], folder: Path) -> None:
    """study.md and a plot for each question that has records."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "study.md", markdown(records))
    for question in answered(records):
        plot(question, records, folder / f"{question.key}.png")


def answered(records: Mapping[Key, Record]) -> list[Question]:
    """The questions of which some condition other than the first has a record."""
    names = {name for name, seed in records if seed != SCAN_SEED}
    return [question for question in QUESTIONS if len(names.intersection(question.conditions)) > 1]


def markdown(records: Mapping[Key, Record]) -> str:
    """The whole report."""
    reported = [record for (_, seed), record in records.items() if seed != SCAN_SEED]
    lines = ["# Study on the embedded tasks", "", *_made(records.values()), "", *_reading(reported), ""]
    lines += [
        "## Conclusions",
        "",
        *_headlines(records),
        *_to_run(records),
        "",
        "## Learning rates",
        "",
        *_scan(records),
        "",
    ]
    for question in answered(records):
        lines += [f"## {question.title}", "", _table(question, records), ""]
        lines += [*conclusions(question, records), "", f"![{question.title}]({question.key}.png)", ""]
    return "\n".join(lines).rstrip() + "\n"


def _made(records: Iterable[Record]) -> list[str]:
    seen: dict[str, set[str]] = defaultdict(set)
    runs = list(records)
    for record in runs:
        for name, value in record["made"].items():
            seen[name].add(str(value))
    facts = [f"{name} {', '.join(sorted(values))}" for name, values in seen.items()]
    minutes = sum(record["seconds"] for record in runs) / 60
    return [
        f"{len(runs)} runs of one thread, about {minutes:.0f} minutes in the sum of their own clocks, which count "
        f"whatever else the machine did. {'; '.join(facts)}. Again, all of it: `python -m benchmarks.study`."
    ]


def _reading(reported: list[Record]) -> list[str]:
    seeds = sorted({record["seed"] for record in reported})
    sizes = "; ".join(f"on {task} {rounds} rounds of {each}" for task, (rounds, each) in SIZES.items())
    return [
        f"Every run starts from an embedded model and draws as many completions, whatever the group size: {sizes}. "
        "*hard* is Sudoku with 13 or 14 holes, more than its model learned to fill. Most of its puzzles have several "
        "solutions, so its reward is the share of complete rows, columns and boxes, plus 1 if all are. Its learning "
        "rate falls to 0. "
        f"Accuracies are of {TEST_ROWS} held-out test rows after the last step, drawn at temperature 1 "
        "(*sampled*) and 0 (*greedy*), always with the same decoder and the same draws; *best validation* is the "
        f"highest sampled accuracy of {VALIDATION_ROWS} validation rows during a run. Cells hold the mean over seeds "
        f"({_text(seeds)}) and its 95 % t interval over seeds. Differences are taken seed by seed, and their t "
        "interval is over those differences: *higher* or *lower* where it leaves out 0. The intervals speak of other "
        "seeds, not of other test rows, and are not corrected for the number of comparisons. Bands in plots span the "
        "seeds' lowest and highest. Objectives: WDCE with the baselines *negative* (the default, strength 1), *none*, "
        "*mean* and *theta*; *wddo* with α_d = 1, scanned alone, and *wddo 1/G* with α_d = 1/G, both with twice the "
        "views of the others; *wd1* and *diffu_grpo* as released, with two prompt masks a step."
    ]


def _text(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))


def scanned(records: Mapping[Key, Record], task: str, objective: str, rate: float) -> float | None:
    """Sampled validation accuracy at the end of a scan's run; None where the run is missing."""
    record = records.get((scan_name(task, objective, rate), SCAN_SEED))
    return None if record is None else _share(record["validation"][-1], "sampled")


def _scan(records: Mapping[Key, Record]) -> list[str]:
    lines = [
        f"Sampled validation accuracy after a run of seed {SCAN_SEED}, which is no reported seed, at G = 8. Every "
        "other run of an objective takes the rate in bold, its best, unless its name says otherwise.",
        "",
    ]
    rates = sorted({condition.changes["learning_rate"] for condition in scan_conditions().values()})
    rows = []
    for task, objectives in LEARNING_RATES.items():
        for objective, used in objectives.items():
            shares = {rate: scanned(records, task, objective, rate) for rate in rates}
            cells = {rate: "" if share is None else f"{share:.1%}" for rate, share in shares.items()}
            marked = [f"**{cell}**" if cell and rate == used else cell for rate, cell in cells.items()]
            if any(marked):
                rows.append([task, objective, *marked])
    return [*lines, table(["task", "objective", *(f"{rate:g}" for rate in rates)], rows)]


def _share(counts: dict[str, int], kind: str) -> float:
    return counts[kind] / counts["rows"]


def values(records: Mapping[Key, Record], name: str, wanted: Collection[str]) -> Values:
    """A number of every reported run of the wanted conditions: sampled or greedy (at the end, on the test split), or a
    key of COLUMNS."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for (condition, seed), record in records.items():
        if condition in wanted and seed != SCAN_SEED:
            found[condition][seed] = _value(record, name)
    return found


def _value(record: Record, name: str) -> float:
    if name in ("sampled", "greedy"):
        return _share(record["test"][-1], name)
    if name == "peak":
        return max(_share(counts, "sampled") for counts in record["validation"])
    if name in record["rounds"]:
        curve = [value for value in record["rounds"][name] if value is not None]
        return curve[-1] if name in ENDS else sum(curve) / len(curve)
    return float(record[name])


def _table(question: Question, records: Mapping[Key, Record]) -> str:
    names = ("sampled", "greedy", *question.columns)
    header = ["condition", "seeds", "sampled", "greedy", *(COLUMNS[name] for name in question.columns)]
    rows: list[list[str]] = []
    columns = {name: values(records, name, question.conditions) for name in names}
    shown = [name for name in question.conditions if name in columns["sampled"]]
    for task in dict.fromkeys(name.partition("/")[0] for name in shown):
        start = next(record["test"][0] for (name, _), record in records.items() if name.startswith(f"{task}/"))
        cells = [f"{task}, before", "", f"{_share(start, 'sampled'):.1%}", f"{_share(start, 'greedy'):.1%}"]
        rows.append(cells + [""] * len(question.columns))
    for name in shown:
        cells = [name.partition("/")[2], str(len(columns["sampled"][name]))]
        cells += [_cell(column, list(columns[column][name].values())) for column in names]
        rows.append(cells)
    return table(header, rows)


def _cell(column: str, numbers: list[float]) -> str:
    mean = Mean.of(numbers)
    if column in ("samples", "steps", "row_forwards"):
        return f"{mean.value:,.0f}"
    if column in ("sampled", "greedy", "peak"):
        return _percent(mean)
    return f"{mean.value:.2f}" + ("" if mean.low is None else f" [{mean.low:.2f}, {mean.high:.2f}]")


def _percent(mean: Mean) -> str:
    """A share in per cent with its interval, which is cut to what a share can be."""
    if mean.low is None or mean.high is None:
        return f"{mean.value:.1%}"
    return f"{mean.value:.1%} [{max(mean.low, 0):.1%}, {min(mean.high, 1):.1%}]"


def _headlines(records: Mapping[Key, Record]) -> list[str]:
    found = [(q.key, line) for q in answered(records) for line in _contrasts(q, records, headline=True)]
    intervals = sum(line.count("]: ") for _, line in found)
    return [
        "Differences of test accuracy in points, each with its 95 % interval over seeds; *higher* or *lower* where "
        f"that leaves out 0, as 1 in 20 of the {intervals} intervals would by chance if nothing differed: one that "
        "barely does says little. G=8, F=2, K=1, c=1 and topk unless said otherwise.",
        "",
        *(f"- {key}: {line}" for key, line in found),
    ]


def _to_run(records: Mapping[Key, Record]) -> list[str]:
    """What not all seeds have answered yet."""
    seeds = values(records, "sampled", {name for name, _ in records})
    short = {q.key: [name for name in q.conditions if len(seeds.get(name, {})) < len(SEEDS)] for q in QUESTIONS}
    text = "; ".join(f"{key} ({len(names)} of its conditions)" for key, names in short.items() if names)
    return [f"- Not run with {len(SEEDS)} seeds yet: {text}."] if text else []


def conclusions(question: Question, records: Mapping[Key, Record]) -> list[str]:
    """A line for each contrast: accuracies in points; entropy and distinct completions where the table has them."""
    return [f"- {line}" for headline in (True, False) for line in _contrasts(question, records, headline=headline)]


def _contrasts(question: Question, records: Mapping[Key, Record], *, headline: bool) -> list[str]:
    names = ["sampled", "greedy", *(name for name in ENDS if name in question.columns)]
    columns = {name: values(records, name, question.conditions) for name in names}
    lines = []
    for item in (item for item in question.contrasts if item.headline is headline):
        found = {name: contrast(column, item.plus, item.minus, item.over) for name, column in columns.items()}
        parts = [_difference(name, mean) for name, mean in found.items() if mean is not None]
        if parts:
            lines.append(f"{item.text}: {'; '.join(parts)}.")
    return lines


def _difference(name: str, mean: Mean) -> str:
    """Accuracies in points; entropy in nats and the share of distinct completions as they are."""
    scale, form, shown = (1, "+.2f", ENDS[name]) if name in ENDS else (100, "+.1f", name)
    value, low, high = (None if x is None else format(scale * x, form) for x in (mean.value, mean.low, mean.high))
    interval = "" if low is None else f" [{low}, {high}]"
    return f"{shown} {value}{interval}: {mean.verdict}"
