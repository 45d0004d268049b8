"""The rewards that a config or a script names: functions, their names, options and weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from .form import innermost, name_of

RewardEntry = Callable[..., Any] | str | Mapping[str, Any]
"""A function, its name `module:function`, or a mapping with `function` and perhaps `name` and `options`."""

_KEYS = ("function", "name", "options")


@dataclass(frozen=True)
class NamedReward:
    """One reward of a run.

    name: what metrics call it. function: the function, or `module:function`. options: keyword arguments of it.
    """

    name: str
    function: Callable[..., Any] | str
    options: dict[str, Any] = field(default_factory=dict)


def read_entries(entries: RewardEntry | Sequence[RewardEntry]) -> list[NamedReward]:
    """The rewards of a run, from one entry or a list of them.

    Raises:
        ValueError: there is none, two have one name, or one is written in another form.
        TypeError: an entry is no function, name or mapping.
    """
    listed = [*entries] if isinstance(entries, Sequence) and not isinstance(entries, str) else [entries]
    rewards = [_read(entry) for entry in listed]
    if not rewards:
        raise ValueError("rewards is an empty list: give at least one reward, or leave rewards out")
    name, count = Counter(reward.name for reward in rewards).most_common(1)[0]
    if count > 1:
        raise ValueError(
            f"rewards has {count} rewards named {name!r}, and metrics need different names; give one a name, as in "
            f"{{function: module:{name}, name: other}}"
        )
    return rewards


def chosen_rewards(
    reward: RewardEntry | None, rewards: Sequence[RewardEntry] | None
) -> RewardEntry | Sequence[RewardEntry] | None:
    """The one of the two arguments that a script gives; None if it gives none.

    Raises:
        ValueError: it gives both, or an empty list.
    """
    if reward is not None and rewards is not None:
        raise ValueError("reward and rewards were both given: give reward for one, or rewards for several")
    if rewards is not None and not rewards:
        raise ValueError("rewards is an empty list: give at least one reward, or leave rewards out")
    return reward if rewards is None else rewards


def read_weights(weights: Sequence[float], rewards: int) -> list[float]:
    """One weight for each of so many rewards; 1 for each where `weights` is empty.

    Raises:
        ValueError: the number of weights is another, or one is not finite.
    """
    if not weights:
        return [1.0] * rewards
    if len(weights) != rewards:
        raise ValueError(
            f"reward_weights has {len(weights)} weights for {rewards} reward{'s' * (rewards > 1)}; give one for each"
        )
    for weight in weights:
        if not isfinite(weight):
            raise ValueError(f"reward_weights must be finite numbers, got {weight}")
    return [float(weight) for weight in weights]


def source_of(entry: RewardEntry) -> str:
    """The name of a reward's function: `module:function` of a config, or module.function of an object."""
    function: Any = entry["function"] if isinstance(entry, Mapping) else entry
    if isinstance(function, str):
        return function
    function = innermost(function)
    definition = function if hasattr(function, "__qualname__") else type(function)
    return f"{definition.__module__}.{definition.__qualname__}"


def _read(entry: RewardEntry) -> NamedReward:
    if not isinstance(entry, Mapping):
        return NamedReward(_name(entry), entry)
    if unknown := [key for key in entry if key not in _KEYS]:
        raise ValueError(f"a reward of rewards has no key {unknown[0]!r}; its keys are {', '.join(_KEYS)}")
    if "function" not in entry:
        raise ValueError(f"a reward of rewards must name its function, as in {{function: module:name}}, got {entry}")
    function, options = entry["function"], entry.get("options") or {}
    if not isinstance(options, Mapping):
        raise ValueError(f"options of reward {function} must be a mapping of names to values, got {options!r}")
    own_name = _name(function)
    name = entry.get("name", own_name)
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise ValueError(f"name of reward {function} must be a text, got {name!r}")
    return NamedReward(name, function, dict(options))


def _name(function: Any) -> str:
    if isinstance(function, str):
        module, _, attribute = function.partition(":")
        if not module or not attribute:
            raise ValueError(f"reward must be named 'module:name', got {function!r}")
        return attribute
    if not callable(function):
        raise TypeError(f"a reward must be a function or its name 'module:name', got {type(function).__name__}")
    return name_of(function)
