"""Markdown tables, for all reports of the benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, a line for each row; a bar or a line break inside a cell stays in the cell."""
    return "\n".join([_line(head), "|---" * len(head) + "|", *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    first, *rest = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"|{f' {first}' if first else ''} | {' | '.join(rest)} |"
