"""The values that a reward returns, as floats: numbers, bools, and what numpy and torch have for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from .errors import RewardError


def read_values(name: str, values: Any, completions: list[str], *, optional: bool = False) -> list[float]:
    """One float for each completion, from a list, a tuple, an array or a tensor of shape [n].

    With `optional`, None is taken, too: the reward does not apply to that completion. Its float is NaN.

    Raises:
        RewardError: the number of values is wrong, a value is no number, or a value is not finite.
    """
    if not isinstance(values, Sequence) and hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise RewardError(f"reward {name} must return a list of numbers, got {type(values).__name__}")
    if len(values) != len(completions):
        raise RewardError(
            f"reward {name} returned {len(values)} values for {len(completions)} completions; "
            "it must return one for each completion"
        )
    return [
        read_value(name, value, completion, optional=optional)
        for value, completion in zip(values, completions, strict=True)
    ]


def read_value(name: str, value: Any, completion: str, *, optional: bool = False) -> float:
    """One number, bool, numpy scalar, or tensor or array of one element, as a float; otherwise as `read_values`."""
    if value is None and optional:
        return math.nan
    number = _as_float(value)
    if number is None or not math.isfinite(number):
        hint = ". None leaves a reward out of a sum of several; this one is alone" if value is None else ""
        raise RewardError(
            f"reward {name} must return finite numbers, got {_short(value)} for completion {completion[:80]!r}{hint}"
        )
    return number


def _as_float(value: Any) -> float | None:
    if not isinstance(value, Real) and hasattr(value, "item"):
        try:
            value = value.item()
        except (TypeError, ValueError, RuntimeError):  # of several elements
            return None
    try:
        return float(value) if isinstance(value, Real) else None
    except OverflowError:
        return math.inf


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
