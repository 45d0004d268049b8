"""One readable ValueError for a wrong config, whether it comes from a file, from keywords or from an assignment."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from pydantic import ValidationError

from .other_names import hint
from .spelling import OLDER_NAMES, required_keys, understood

Kind = TypeVar("Kind", bound=type)


def similar_names(name: str, known: Sequence[str]) -> list[str]:
    """The known names that an unknown name may mean. Initials count, too: lr may mean learning_rate, or lora_r."""
    initials = [key for key in known if "_" in key and "".join(word[:1] for word in key.split("_")) == name]
    return initials or difflib.get_close_matches(name, known, n=1)


def nearest_name(name: str, names: Iterable[str]) -> str:
    """The end of a message about an unknown name: the most similar known name, or all of them."""
    known = list(names)
    similar = similar_names(name, known)
    return f", did you mean {' or '.join(map(repr, similar))}?" if similar else f"; valid keys: {', '.join(known)}"


def key_names(kind: type) -> list[str]:
    """The keys of a dataclass as a user reads them: its own keys come before inherited keys.

    Keys of a base with `KEYS_OF_HEIRS` count as own keys.
    """
    inherited = {
        name
        for base in kind.__mro__[1:]
        if dataclasses.is_dataclass(base) and not vars(base).get("KEYS_OF_HEIRS")
        for name in vars(base).get("__annotations__", {})
    }
    return sorted((field.name for field in fields(kind)), key=lambda name: name in inherited)


def check_keys(kind: type, keys: Iterable[Any]) -> None:
    """Raise ValueError for the first key that the dataclass `kind` does not have; the nearest key is named."""
    names = key_names(kind)
    for key in keys:
        if key not in names:
            elsewhere = hint(str(key), names) if "max_steps" in names else None  # of a run
            understood_too = [*names, *getattr(kind, OLDER_NAMES, {})]
            nearest = nearest_name(str(key), similar_names(str(key), understood_too) or names)
            raise ValueError(f"unknown config key {key!r}{f': {elsewhere}' if elsewhere else nearest}")


def readable(error: ValidationError) -> str:
    """The problems of a config in one line: key, what is wrong and the value; no problem twice."""
    problems: dict[str, None] = {}  # a set that keeps the order
    for item in error.errors():
        key = ".".join(str(step) for step in item["loc"])
        raised = item.get("ctx", {}).get("error")
        if item["type"] in ("missing", "missing_keyword_only_argument"):
            problem = f"config key {key!r} is required"
        else:
            problem = str(raised) if raised else f"config key {key!r}: {item['msg']}, got {item['input']!r}"
        problems[problem] = None
    return "; ".join(problems)


def checked_config(kind: Kind) -> Kind:
    """Class decorator above pydantic's: keywords and later assignments are checked as the values of a file are.

    An assignment is checked together with all other values: to change keys that depend on each other, use
    `dataclasses.replace`.
    """
    make = kind.__init__  # type: ignore[misc]

    @functools.wraps(make)
    def initialise(self: Any, *values: Any, **keys: Any) -> None:
        keys = understood(kind, keys)
        check_keys(kind, keys)
        if values:
            raise TypeError(f"{kind.__name__} takes keys, as in {kind.__name__}(seed=1), got {values[0]!r}")
        empty = [key for key in required_keys(kind) if keys.get(key, "") is None]  # as `dmpo config` writes them
        try:
            make(self, **{key: value for key, value in keys.items() if key not in empty})
        except ValidationError as error:
            raise ValueError(readable(error)) from None

    def assign(self: Any, name: str, value: Any) -> None:
        if name.startswith("__"):  # pydantic's own
            object.__setattr__(self, name, value)
            return
        check_keys(kind, [name])
        object.__setattr__(self, name, getattr(dataclasses.replace(self, **{name: value}), name))

    kind.__init__ = initialise  # type: ignore[misc]
    kind.__setattr__ = assign  # type: ignore[method-assign, assignment]
    return kind
