"""Load a reward by its name, call it, and check the values that it returns."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

Reward = Callable[..., list[float]]


class RewardError(ValueError):
    """A reward did not return a list of finite numbers, one for each completion."""


def load_object(name: str, what: str) -> Any:
    """The callable named `module:name`, as `find_object`.

    Raises:
        ValueError: as `find_object`, or the object is no callable.
    """
    loaded = find_object(name, what)
    if not callable(loaded):
        raise ValueError(f"{what} {name!r} must be a function or a class, got {type(loaded).__name__}")
    return loaded


def find_object(name: str, what: str) -> Any:
    """The object named `module:name`. Error messages start with `what`, for example "reward" or "task".

    Raises:
        ValueError: the name has another form, or the module or the object does not exist.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"{what} must be named 'module:name', got {name!r}")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{what} {name!r} cannot be imported: {error}") from error


def score(reward: Reward, completions: list[str], columns: dict[str, list[Any]]) -> list[float]:
    """Call a reward and check the values that it returns.

    Raises:
        RewardError: the number of values is wrong, a value is no number, or a value is not finite.
    """
    name = getattr(reward, "__name__", repr(reward))
    values = reward(completions, **columns)
    if not isinstance(values, Sequence):
        raise RewardError(f"reward {name} must return a list of numbers, got {type(values).__name__}")
    if len(values) != len(completions):
        raise RewardError(
            f"reward {name} returned {len(values)} values for {len(completions)} completions; "
            "it must return one for each completion"
        )
    for index, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise RewardError(
                f"reward {name} must return finite numbers, got {value!r} for completion {completions[index][:80]!r}"
            )
    return [float(value) for value in values]
