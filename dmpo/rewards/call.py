"""Calling a reward: by name or as a function, with what it returns checked."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

Reward = Callable[..., list[float]]


class RewardError(ValueError):
    """A reward returned what is no list of finite numbers, one a completion."""


def load_object(name: str, what: str) -> Any:
    """The callable named `module:name`.

    Raises:
        ValueError: the name has another form, or the module or the callable does not exist; `what` says whose name.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"{what} must be named 'module:name', got {name!r}")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{what} {name!r} cannot be imported: {error}") from error
    if not callable(found):
        raise ValueError(f"{what} {name!r} cannot be called")
    return found


def score(reward: Reward, completions: list[str], columns: dict[str, list[Any]]) -> list[float]:
    """Call a reward and check what it returns.

    Raises:
        RewardError: it returned another number of values, something that is no number, or a value that is not finite.
    """
    name = getattr(reward, "__name__", repr(reward))
    values = reward(completions, **columns)
    if not isinstance(values, Sequence):
        raise RewardError(f"reward {name} must return a list of numbers, got {type(values).__name__}")
    if len(values) != len(completions):
        raise RewardError(f"reward {name} returned {len(values)} values for {len(completions)} completions")
    for index, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise RewardError(
                f"reward {name} must return finite numbers, got {value!r} for completion {completions[index][:80]!r}"
            )
    return [float(value) for value in values]
