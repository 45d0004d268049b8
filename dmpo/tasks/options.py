"""Check the types of a task's arguments, which come from a config."""

from __future__ import annotations

import os
from numbers import Integral
from typing import Any


def check_integers(least: int, **options: Any) -> None:
    """Raise ValueError for an argument that is neither an integer ≥ `least` nor None."""
    for name, value in options.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least):
            raise ValueError(f"{name} must be an integer ≥ {least}, got {value!r}")


def check_texts(**options: Any) -> None:
    """Raise ValueError for an argument that is not a text, a path object or None."""
    for name, value in options.items():
        if value is not None and not isinstance(value, str | os.PathLike):
            raise ValueError(f"{name} must be a text, got {value!r}")
