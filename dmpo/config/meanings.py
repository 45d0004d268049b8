"""Every key of a config class with its group, type, default and meaning, read from the class itself.

The meaning is the string that stands below a field. The group is the comment that stands above a field, and begins with
a capital letter (`# Model`). `dmpo train --help` and `dmpo config` show what this module reads.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import types
from collections.abc import Iterator
from dataclasses import MISSING, dataclass
from itertools import pairwise
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import key_names

_GROUP = re.compile(r"    # ([A-Z][\w -]*)$")
_ORDER = ("Model", "Task", "Demonstrations", "Rollouts", "Objective", "Buffer", "Optimisation", "Book-keeping")
_KINDS = {bool: "true or false", int: "integer", float: "number", str: "text", type(None): "null", Any: "anything"}


@dataclass(frozen=True)
class Key:
    """A key of a config class. default is `dataclasses.MISSING` for a required key; kind is the type in words."""

    name: str
    group: str
    hint: Any
    default: Any
    meaning: str

    @property
    def kind(self) -> str:
        return kind_in_words(self.hint)

    @property
    def is_switch(self) -> bool:
        """Whether the key is true or false."""
        return self.hint is bool

    @property
    def summary(self) -> str:
        """The meaning, then type and default."""
        value = "required" if self.default is MISSING else f"default {_short(self.default)}"
        return f"{self.meaning} [{self.kind}; {value}]"


def keys_of(kind: type) -> list[Key]:
    """The keys of a config class: its own keys before inherited keys, and the keys of a group together."""
    hints, read = get_type_hints(kind), _read(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    keys = [
        Key(name, read[name][0], hints[name], _default(fields[name]), read[name][1])
        for name in key_names(kind)
        if name in read
    ]
    groups = sorted(dict.fromkeys(key.group for key in keys), key=_rank)
    return sorted(keys, key=lambda key: groups.index(key.group))


def _rank(group: str) -> int:
    """The place of a group: the groups of a run in the order in which a run meets them, then others."""
    return _ORDER.index(group) if group in _ORDER else len(_ORDER)


def key_meanings(kind: type) -> dict[str, str]:
    """The meaning of each key of a config class in one line, in the order of the keys; inherited keys count, too."""
    read = _read(kind)
    return {key.name: read[key.name][1] for key in dataclasses.fields(kind) if key.name in read}


def kind_in_words(hint: Any) -> str:
    """A type as a user reads it: `list[str] | None` is "list of text or null"."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _either(list(map(str, inner)))
    if origin in (Union, types.UnionType):
        choices = [get_args(choice) if get_origin(choice) is Literal else (kind_in_words(choice),) for choice in inner]
        return _either([str(choice) for several in choices for choice in several])
    if origin is list:
        return f"list of {kind_in_words(inner[0])}"
    if origin is dict or hint is dict:
        return "mapping"
    return str(_KINDS.get(hint) or getattr(hint, "__name__", hint))


def _either(choices: list[str]) -> str:
    return " or ".join([*([", ".join(choices[:-1])] if choices[1:] else []), choices[-1]])


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _read(kind: type) -> dict[str, tuple[str, str]]:
    """Group and meaning of each key, each from the class of the highest precedence that has it."""
    groups: dict[str, str] = {}
    meanings: dict[str, str] = {}
    for base in kind.__mro__:
        if not dataclasses.is_dataclass(base):
            continue
        for name, group, meaning in _statements(base):
            if group:
                groups.setdefault(name, group)
            if meaning:
                meanings.setdefault(name, " ".join(meaning.split()))
    return {name: (groups.get(name, ""), meaning) for name, meaning in meanings.items()}


def _statements(kind: type) -> Iterator[tuple[str, str, str]]:
    """Name, group and meaning of each field that a class itself declares; "" for what a field does not have."""
    source = inspect.getsource(kind)
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    groups = [(number, match[1]) for number, line in enumerate(source.splitlines(), 1) if (match := _GROUP.match(line))]
    for statement, below in pairwise([*definition.body, ast.Pass()]):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            above = [group for number, group in groups if number < statement.lineno]
            yield statement.target.id, above[-1] if above else "", _text(below)


def _text(statement: ast.stmt) -> str:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""
