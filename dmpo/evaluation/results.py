"""The results of an evaluation: a summary of each cell, as JSON, as Markdown and on the terminal."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from ..storage.terminal import make_console
from ..storage.whole_files import write_text
from .chart import plot_cells
from .intervals import estimate_pass

_LEDGER_ONLY = ("step", "cost")  # what no two runs share


def summarise_cells(
    lines: Iterable[dict[str, Any]], pass_at: Sequence[int], *, guided: bool = False
) -> list[dict[str, Any]]:
    """One object for each (task, gen_length, decoder) in the lines, in their order.

    pass@k: value, low, high (95 %) and the interval's method, see `intervals.estimate_pass`. answered: share of
    completions that have an answer. failures: completions for which a comparison timed out or crashed, or the task
    raised; they count as wrong.

    For lines with costs also: tokens, drawn and not overwritten after an EOS; row_forwards, rows of all model calls
    (with guidance two for each sequence); forwards, model calls, and seconds, both summed over all ranks and dependent
    on batch size and machine; tokens_per_second of one rank.

    Raises:
        ValueError: examples of a cell have different numbers of samples.
    """
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for line in lines:
        cells.setdefault((line["task"], line["split"], line["gen_length"], line["decoder"]), []).append(line)
    summary = []
    for (task, split, gen_length, decoder), members in cells.items():
        counts = Counter(line["index"] for line in members)
        samples = min(counts.values())
        if max(counts.values()) != samples:
            raise ValueError(f"task {task}: examples have {samples} to {max(counts.values())} completions")
        solved = dict.fromkeys(counts, 0)
        for line in members:
            solved[line["index"]] += line["score"] > 0
        cell: dict[str, Any] = {"task": task, "split": split, "gen_length": gen_length, "decoder": decoder}
        cell |= {"examples": len(counts), "samples": samples}
        for k in pass_at:
            cell[f"pass@{k}"] = vars(estimate_pass(list(solved.values()), samples, k))
        cell["answered"] = sum(line["answer"] is not None for line in members) / len(members)
        cell["failures"] = sum(line["failure"] is not None for line in members)
        if "cost" in members[0]:
            cell |= _costs(members, 2 if guided else 1)
        summary.append(cell)
    return summary


def _costs(lines: list[dict[str, Any]], passes: int) -> dict[str, float]:
    tokens, row_forwards = sum(line["tokens"] for line in lines), passes * sum(line["steps"] for line in lines)
    seconds = math.fsum(line["cost"]["seconds"] for line in lines)
    return {
        "tokens": tokens,
        "row_forwards": row_forwards,
        "tokens_per_forward": tokens / row_forwards,
        "forwards": round(math.fsum(line["cost"]["forwards"] for line in lines)),
        "seconds": seconds,
        "tokens_per_second": tokens / max(seconds, 1e-9),
    }


def write_results(folder: Path, lines: Sequence[dict[str, Any]], summary: dict[str, Any], title: str) -> None:
    """results.jsonl, of the lines what another run of the same evaluation has, too; results.json, .md and .png."""
    lasting = ({key: value for key, value in line.items() if key not in _LEDGER_ONLY} for line in lines)
    write_text(folder / "results.jsonl", "".join(json.dumps(line) + "\n" for line in lasting))
    write_text(folder / "results.json", json.dumps(summary, indent=1) + "\n")
    write_text(folder / "results.md", f"{title}; 95 % intervals\n\n{markdown(summary['cells'])}")
    plot_cells(summary["cells"], title, folder / "results.png")


def table_rows(cells: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A header and a row for each cell, as text."""
    ks = [key for key in cells[0] if key.startswith("pass@")]
    names = [name for name in ("task", "gen_length", "decoder") if any(cell[name] is not None for cell in cells)]
    costs = "tokens" in cells[0]
    rows = [[*names, "examples", *ks, "answered", *(["tokens", "tokens/forward", "tokens/s"] if costs else [])]]
    for cell in cells:
        row = [str(cell[name]) for name in names]
        row.append(f"{cell['examples']} × {cell['samples']}" if cell["samples"] > 1 else str(cell["examples"]))
        row += [f"{cell[k]['value']:.1%} [{cell[k]['low']:.1%}, {cell[k]['high']:.1%}]" for k in ks]
        row.append(f"{cell['answered']:.1%}")
        if costs:
            mean = cell["tokens"] / (cell["examples"] * cell["samples"])
            row += [f"{mean:.1f}", f"{cell['tokens_per_forward']:.2f}", f"{cell['tokens_per_second']:.0f}"]
        rows.append(row)
    return rows


def markdown(cells: Sequence[dict[str, Any]]) -> str:
    """The table as Markdown; tokens are the mean of a completion, intervals 95 %."""
    header, *rows = [[cell.replace("|", "\\|") for cell in row] for row in table_rows(cells)]
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def show_table(cells: Sequence[dict[str, Any]], title: str) -> None:
    """Print the table, in its full width if the output is no terminal."""
    header, *rows = table_rows(cells)
    table = Table(title=escape(title), title_justify="left")
    for name in header:
        table.add_column(name, justify="left" if name in ("task", "decoder") else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    make_console().print(table)
