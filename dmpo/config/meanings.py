"""The meaning of every config key, read from the string that stands below its field."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from itertools import pairwise


def key_meanings(kind: type) -> dict[str, str]:
    """The meaning of each key of a config class in one line, in the order of the keys; inherited keys count, too."""
    meanings: dict[str, str] = {}
    for base in kind.__mro__:
        if not dataclasses.is_dataclass(base):
            continue
        (definition,) = ast.parse(inspect.getsource(base)).body
        assert isinstance(definition, ast.ClassDef)
        for statement, below in pairwise(definition.body):
            text = _text(below)
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and text is not None:
                meanings.setdefault(statement.target.id, " ".join(text.split()))
    return {key.name: meanings[key.name] for key in dataclasses.fields(kind) if key.name in meanings}


def _text(statement: ast.stmt) -> str | None:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None
