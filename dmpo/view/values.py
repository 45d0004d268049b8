"""Values from files that may hold anything, as the page can take them: bounded texts, short numbers."""

from __future__ import annotations

import json
import sys
from typing import Any

LONGEST_TEXT = 20_000  # characters of a prompt or completion that the page holds
_KEPT_AT_END = 4_000
_EXACT = 2**53  # a browser's numbers are exact below it


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
    if not isinstance(value, int | float):
        return None
    if isinstance(value, int) and abs(value) < _EXACT:
        return value
    if not abs(value) <= sys.float_info.max:  # NaN, infinity, or a whole number that no float can hold
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < _EXACT else short


def whole_of(value: Any) -> int | None:
    """A whole number that a browser can hold; None for everything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _EXACT else None


def duration(seconds: float) -> str:
    """45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
