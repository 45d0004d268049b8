"""A config as YAML in which a comment above each key gives its meaning, type and default."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import MISSING
from typing import Any

import yaml

from .meanings import keys_of

_WIDTH = 100


def commented_yaml(kind: type, values: Mapping[str, Any], title: str) -> str:
    """Every key of a config class under a comment, in groups: with the value that `values` has, or else its default.

    A required key that `values` lacks has no value; a config that is loaded from the text then names it as required.
    """
    lines = _comment(title)
    group = None
    for key in keys_of(kind):
        if key.group != group:
            group = key.group
            lines += ["", f"# ---- {group or 'Keys'} ----"]
        value = values.get(key.name, key.default)
        lines += ["", *_comment(key.summary)]
        lines.append(f"{key.name}:" if value is MISSING else _setting(key.name, value))
    return "\n".join([*lines, ""])


def _setting(name: str, value: Any) -> str:
    """`name: value` in one line, and a text of several lines in quotes."""
    style: Any = {"allow_unicode": True, "width": 10**6, "sort_keys": False}
    if isinstance(value, list | dict):
        return f"{name}: {yaml.safe_dump(value, default_flow_style=True, **style).strip()}"
    return yaml.safe_dump({name: value}, default_flow_style=False, **style).rstrip("\n")


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False)
