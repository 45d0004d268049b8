"""decoders.md: for each model what the fastest accurate point of each decoder is, and which are on the frontier."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.markdown import table
from dmpo.storage.whole_files import write_text

from .comparison import accuracy, frontier, paired, positions_a_token, reaches, tokens_a_forward
from .measure import Record
from .plots import plot

HEAD = (
    *("decoder", "value", "solved", "95 %", "minus topk, 95 %"),
    *("tokens a forward", "forwards of topk", "positions a token"),
)
HEAD_OF_DRAWS = ("decoder", "value", "solved", "mismatch, nats a token", "minus topk's")


def write(records: Sequence[Record], made: str, folder: Path) -> None:
    """The report and a picture for each task. made: where, when and with what the records were made."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["# Decoders: accuracy and forwards", "", made, "", *_reading(), ""]
    for task in dict.fromkeys(record["task"] for record in records):
        own = [record for record in records if record["task"] == task]
        lines += _of_task(task, own, folder)
    write_text(folder / "decoders.md", "\n".join(lines).rstrip() + "\n")


def _reading() -> list[str]:
    return [
        "`python -m benchmarks.study decoders` makes this report. A point is one decoder with one value of its "
        "parameter: tokens a step of topk, the threshold of parallel, risk and credit, the factor, the entropy bound, "
        "the low threshold of hierarchy (whose threshold is 0.9), the wide threshold of wino.",
        "",
        "- *Tokens a forward*: tokens that a forward unmasks in a row. *Forwards of topk*: the row's forwards as a "
        "share of the forwards of the yardstick, topk with one token a forward.",
        "- *Positions a token*: positions that go through the model for a token. A cache or a cut suffix saves "
        "positions, not forwards.",
        "- *Minus topk*: the difference of the accuracies on the same rows. Intervals are 95 %, and are not corrected "
        "for the number of points.",
        "- A decoder *reaches* topk where its accuracy is at least the lower end of the interval of the yardstick, and "
        "the interval of the difference is not below 0 as a whole.",
        "- The models are tiny, and their completions have 8 or 16 tokens. Nothing here says how fast a decoder is on "
        "a GPU.",
    ]


def of_task(records: Sequence[Record], temperature: float, batch: int) -> list[Record]:
    """Those of one temperature and batch size."""
    return [record for record in records if (record["temperature"], record["batch"]) == (temperature, batch)]


def yardstick_of(records: Sequence[Record]) -> Record:
    """topk with one token a forward. Raises StopIteration where it is not measured."""
    return next(record for record in records if (record["curve"], record["value"]) == ("topk", 1))


def best_points(records: Sequence[Record]) -> list[Record]:
    """Of each curve the point of fewest forwards that reaches topk; none of a curve that does not."""
    yardstick, best = yardstick_of(records), []
    for curve in dict.fromkeys(record["curve"] for record in records):
        own = [record for record in records if record["curve"] == curve and reaches(record, yardstick)]
        if own:
            best.append(max(own, key=lambda record: (tokens_a_forward(record), accuracy(record).share)))
    return best


def _of_task(task: str, records: Sequence[Record], folder: Path) -> list[str]:
    batches = sorted({record["batch"] for record in records if record["batch"] > 1})
    lines: list[str] = []
    for batch in batches:
        greedy = of_task(records, 0.0, batch)
        if not greedy:
            continue
        yardstick = yardstick_of(greedy)
        plot(greedy, f"{task}, temperature 0, 95 % intervals", folder / f"{task}.png")
        share, (low, high) = accuracy(yardstick).share, accuracy(yardstick).interval()
        lines += [
            f"## {task}, temperature 0",
            "",
            f"{yardstick['rows']} held-out rows, {batch} in a batch. {len(yardstick['solved'])} of them have different "
            f"prompts, and accuracies are of these alone. The yardstick solves {share:.1%} "
            f"[{low:.1%}, {high:.1%}].",
            "",
            f"![accuracy over tokens a forward]({task}.png)",
            "",
            "The point of fewest forwards of each decoder that reaches topk:",
            "",
            table(HEAD, [_row(record, yardstick) for record in best_points(greedy)]),
            "",
            *_frontiers(greedy),
            "",
            *_alone(of_task(records, 0.0, 1), greedy),
            "<details><summary>All points</summary>",
            "",
            table(HEAD, [_row(record, yardstick) for record in greedy]),
            "",
            "</details>",
            "",
        ]
        for temperature in sorted({record["temperature"] for record in records} - {0.0}):
            lines += _drawn(task, of_task(records, temperature, batch), temperature)
    return lines


def _row(record: Record, yardstick: Record) -> list[str]:
    low, high = accuracy(record).interval()
    difference = paired(record, yardstick)
    return [
        record["curve"],
        f"{record['value']:g}",
        f"{accuracy(record).share:.1%}",
        f"{low:.1%} to {high:.1%}",
        f"{difference.mean:+.1%} [{difference.low:+.1%}, {difference.high:+.1%}]",
        f"{tokens_a_forward(record):.2f}",
        f"{tokens_a_forward(yardstick) / tokens_a_forward(record):.0%}",
        f"{positions_a_token(record):.1f}",
    ]


def _frontiers(records: Sequence[Record]) -> list[str]:
    lines = []
    for title, cost in (("forwards", lambda r: 1 / tokens_a_forward(r)), ("positions", positions_a_token)):
        numbers = frontier([(cost(record), accuracy(record).share) for record in records])
        kept = sorted((records[number] for number in numbers), key=cost)
        names = "; ".join(f"{r['curve']} {r['value']:g} ({accuracy(r).share:.1%})" for r in kept)
        lines.append(f"- On the frontier of accuracy and {title}: {names}.")
    return lines


def _alone(alone: Sequence[Record], batched: Sequence[Record]) -> list[str]:
    """What one row a batch says: the same completions, and how many forwards a batch of rows shares."""
    pairs = [
        (one, next(many for many in batched if (many["curve"], many["value"]) == (one["curve"], one["value"])))
        for one in alone
    ]
    if not pairs:
        return []
    rows, batch = len(pairs[0][0]["solved"]), pairs[0][1]["batch"]
    same = sum(many["solved"].startswith(one["solved"]) for one, many in pairs)
    shared = [(many["forwards"] / many["rows"]) / (one["forwards"] / one["rows"]) for one, many in pairs]
    return [
        f"One row a batch, the first {rows} rows: {same} of {len(pairs)} points solve the same rows as in batches of "
        f"{batch}. A batch of {batch} takes {min(shared) * batch:.2f} to {max(shared) * batch:.2f} times the forwards "
        f"of one row (median {statistics.median(shared) * batch:.2f}): it runs as long as its slowest row.",
        "",
    ]


def _drawn(task: str, records: Sequence[Record], temperature: float) -> list[str]:
    if not records:
        return []
    base = statistics.fmean(yardstick_of(records)["mismatch"])
    rows = []
    for record in records:
        values = record["mismatch"]
        mean, half = statistics.fmean(values), 1.96 * statistics.stdev(values) / len(values) ** 0.5
        name = [record["curve"], f"{record['value']:g}", f"{accuracy(record).share:.1%}"]
        rows.append([*name, f"{mean:+.3f} ± {half:.3f}", f"{mean - base:+.3f}"])
    return [
        f"### {task}, temperature {temperature:g}: rollouts",
        "",
        f"`rollout_mismatch` of {len(records[0]['mismatch'])} completions: how much likelier the decoder found its "
        "tokens than the ELBO of training does. What is above the value of topk is drift.",
        "",
        "<details><summary>All points</summary>",
        "",
        table(HEAD_OF_DRAWS, rows),
        "",
        "</details>",
        "",
    ]
