"""Spellings of keys and values that every config understands: older names of keys, and one value for a list of one."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

OLDER_NAMES = "OLDER_NAMES"  # class attribute of a config class: older name of a key → its name


def name_of(kind: type, key: str) -> str:
    """The name that a key of the config class `kind` has today."""
    older: Mapping[str, str] = getattr(kind, OLDER_NAMES, {})
    return older.get(key, key)


def understood(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values by the names of the fields of the config class `kind`; a list of one where a field takes a list alone.

    Raises:
        ValueError: a key stands there under two names.
    """
    result: dict[str, Any] = {}
    for key, value in values.items():
        name = name_of(kind, key)
        if name in result:
            raise ValueError(f"{name} is given twice: {', '.join(k for k in values if name_of(kind, k) == name)}")
        one = value is not None and not isinstance(value, list | tuple)
        result[name] = [value] if one and name in _list_fields(kind) else value
    return result


@cache
def required_keys(kind: type) -> frozenset[str]:
    """The keys without a default."""
    return frozenset(f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING)


@cache
def _list_fields(kind: type) -> frozenset[str]:
    """The fields whose type has a list, and nothing that takes a single value."""
    hints = get_type_hints(kind)
    return frozenset(field.name for field in fields(kind) if _takes_list_alone(hints[field.name]))


def _takes_list_alone(hint: Any) -> bool:
    choices = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    choices = tuple(choice for choice in choices if choice is not type(None))
    return bool(choices) and all(get_origin(choice) is list for choice in choices)
