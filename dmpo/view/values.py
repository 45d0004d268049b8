"""Values from files that may hold anything, as the page can take them: bounded texts, short numbers."""

from __future__ import annotations

import json
import math
from typing import Any

LONGEST_TEXT = 20_000  # characters of a prompt or completion that the page holds
_KEPT_AT_END = 4_000


def text_of(value: Any, longest: int = LONGEST_TEXT) -> str:
    """A text of at most about `longest` characters: of a longer one the beginning, a remark, and the end."""
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) <= longest:
        return text
    tail = min(_KEPT_AT_END, longest // 5)
    left_out = f"\n[… {len(text) - longest:,} characters are left out …]\n"
    return f"{text[: longest - tail]}{left_out}{text[len(text) - tail :]}"


def number_of(value: Any, digits: int = 6) -> float | int | None:
    """A finite number with so many digits; None for everything else. True is 1."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int) and abs(value) < 2**53:
        return value
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 2**53 else short


def whole_of(value: Any) -> int | None:
    """A whole number; None for everything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def duration(seconds: float) -> str:
    """45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
