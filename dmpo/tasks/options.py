"""Checks of what a task is made with, which comes from a config: the type of each argument, by its name."""

from __future__ import annotations

import os
from numbers import Integral
from typing import Any


def check_integers(least: int, **options: Any) -> None:
    """Raises ValueError for an argument that is neither an integer ≥ `least` nor None."""
    for name, value in options.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least):
            raise ValueError(f"{name} must be ≥ {least}, an integer, got {value!r}")


def check_texts(**options: Any) -> None:
    """Raises ValueError for an argument that is neither a text (or a path object) nor None."""
    for name, value in options.items():
        if value is not None and not isinstance(value, str | os.PathLike):
            raise ValueError(f"{name} must be a text, got {value!r}")
