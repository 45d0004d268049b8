"""The meaning of each metric, read from where it is described: the docstring of dmpo/rollouts/metrics.py."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib.resources import files

_ENTRY = re.compile(r" {4}(?! )(?P<names>[\w/]+(?:, [\w/.]+)*)(?: {2,}(?P<meaning>\S.*))?$")
_MORE = re.compile(r" {8,}(\S.*)$")


def metric_meaning(name: str) -> str:
    """One line; empty for a metric without a description. The description of `reward/NAME` goes for reward/format."""
    meanings = metric_meanings()
    prefix, slash, _ = name.partition("/")
    return meanings.get(name) or (meanings.get(f"{prefix}/NAME", "") if slash else "")


@cache
def metric_meanings() -> dict[str, str]:
    """The meanings by name. The file is read and not imported, because that would import torch."""
    source = files("dmpo.rollouts").joinpath("metrics.py").read_text(encoding="utf-8")
    return read_meanings(ast.get_docstring(ast.parse(source), clean=False) or "")


def read_meanings(docstring: str) -> dict[str, str]:
    """Entries `    name, other_name   meaning`, whose meaning may go on in lines that are indented further."""
    meanings: dict[str, str] = {}
    names: list[str] = []
    for line in docstring.splitlines():
        if entry := _ENTRY.match(line):
            names = [name for name in entry["names"].split(", ") if "." not in name]
            meanings |= dict.fromkeys(names, entry["meaning"] or "")
        elif more := _MORE.match(line):
            meanings |= {name: f"{meanings[name]} {more[1]}".strip() for name in names}
        else:
            names = []
    return meanings
