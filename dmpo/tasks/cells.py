"""Values of one cell of a data set: read as a text, and shown in messages."""

from __future__ import annotations

import math
from typing import Any


def as_text(value: Any) -> str | None:
    """A right answer as a text: a text is stripped of white space, a number is written in digits, else None."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return str(int(value) if value == int(value) else value)


def shown(value: Any) -> str:
    """A value for a message, in at most 80 characters. Of a text it shows the end, which has the answer."""
    if value is None:
        return "null"
    return repr(value[-80:]) if isinstance(value, str) else f"{value!r:.80}"
