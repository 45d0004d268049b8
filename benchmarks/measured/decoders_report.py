"""Tables, answers and the chart of what decoders.py measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.harness.chart import BLUE, GREY, figure
from benchmarks.harness.markdown import table
from benchmarks.harness.setting import about

WINO_TARGET = 0.35  # model calls on a batch of 8, as a share of the calls row by row

HEAD = ["decoder", "T", "ours s, best / median", "published s, best / median", "times faster", "target"]
HEAD += ["forwards, ours / published", "row-forwards", "MB", "same tokens"]


def row(run: dict[str, Any]) -> list[str]:
    """The cells of a run."""
    ours, published = run["ours"], run["published"]
    return [
        run["decoder"],
        f"{run['temperature']:g}",
        f"{ours['seconds_best']:.2f} / {ours['seconds_median']:.2f}",
        f"{published['seconds_best']:.1f} / {published['seconds_median']:.1f}",
        f"{run['ratio']:.1f}",
        _verdict(run["target_ratio"], "≥", run["ratio"]),
        f"{ours['forwards']} / {published['forwards']}",
        f"{ours['row_forwards']} / {published['row_forwards']}",
        f"{ours['bytes'] / 1e6:.0f} / {published['bytes'] / 1e6:.0f}",
        "other draws" if run["same_tokens"] is None else f"{run['same_tokens']:.1%}",
    ]


def _verdict(target: float, sign: str, value: float) -> str:
    met = value <= target if sign == "≤" else value >= target
    return f"{sign} {target:g}: {'met' if met else 'MISSED'}"


def markdown(results: dict[str, Any]) -> str:
    """Tables and answers of a results file."""
    model, shape = results["model"], results["shape"]
    wino, pace = results["calls"]["wino"], results["calls"]["threshold"]
    shares = [batch["forwards"] / batch["published_forwards"] for batch in wino]
    spared = [1 - batch["row_forwards"] / batch["published_row_forwards"] for batch in pace]
    lines = [
        f"# Decoders, timed on {results['header']['device']}",
        "",
        about(results),
        "",
        f"{results['dtype']}, V = {model['vocab_size']}, d = {model['hidden_size']}, {model['num_layers']} layers; "
        f"{shape['batch']} prompts of {shape['prompt_length']}, {shape['gen_length']} new tokens, blocks of "
        f"{shape['block_length']}, {shape['steps']} steps.",
        "",
        table(HEAD, map(row, results["runs"])),
        "",
        "## Calls on 4×4 Sudoku, 1 to 15 holes, T = 0",
        "",
        table(
            [f"{len(wino)} batches each", "model calls", "row-forwards", "rows with the same tokens"],
            [
                _calls("WINO, batch of 8: ours / row by row", wino),
                _calls("threshold 0.9, 16 rows: own pace / lockstep", pace),
            ],
        ),
        "",
        f"WINO on a batch of 8 makes {_total(wino, 'forwards') / _total(wino, 'published_forwards'):.2f} of the calls "
        f"of row by row, {max(shares):.2f} at most: {_verdict(WINO_TARGET, '≤', max(shares))}. At their own pace rows "
        f"spare {1 - _total(pace, 'row_forwards') / _total(pace, 'published_row_forwards'):.0%} of the row-forwards of "
        f"lockstep, {min(spared):.0%} to {max(spared):.0%} by batch.",
    ]
    return "\n".join(lines) + "\n"


def _total(batches: list[dict[str, Any]], name: str) -> int:
    return sum(batch[name] for batch in batches)


def _calls(name: str, batches: list[dict[str, Any]]) -> list[str]:
    pairs = (f"{_total(batches, key)} / {_total(batches, f'published_{key}')}" for key in ("forwards", "row_forwards"))
    return [name, *pairs, f"{_total(batches, 'same_rows')} of {_total(batches, 'rows')}"]


def plot(results: dict[str, Any], path: Path) -> None:
    """Seconds of ours and published as bars on a logarithmic axis."""
    runs = results["runs"]
    title = f"Rollouts, V = {results['model']['vocab_size']}, {results['header']['device']}"
    with figure(path, size=(9, 4.5), title=title) as (axes,):
        for offset, side, colour in ((-0.2, "published", GREY), (0.2, "ours", BLUE)):
            seconds = [run[side]["seconds_best"] for run in runs]
            bars = axes.bar([i + offset for i in range(len(runs))], seconds, 0.4, color=colour, label=side)
            axes.bar_label(bars, [f"{value:.2g} s" if value < 10 else f"{value:.0f} s" for value in seconds])
        ticks = [f"{run['decoder']}\nT = {run['temperature']:g}\n{run['ratio']:.1f} times faster" for run in runs]
        axes.set_xticks(range(len(runs)), ticks)
        axes.set_yscale("log")
        found = [run[side]["seconds_best"] for run in runs for side in ("ours", "published")]
        axes.set_ylim(min(found) / 2, max(found) * 2)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylabel(f"seconds for {results['shape']['batch']} × {results['shape']['gen_length']} tokens")
        axes.legend(frameon=False, loc="upper right", ncols=2)
