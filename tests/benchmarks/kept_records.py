"""Records of a part of benchmarks.gpu in a list, without a file."""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]


class Records(list[Record]):
    """A `Note` that keeps its records."""

    def __call__(self, name: str, *, ok: bool | None = None, **values: Any) -> None:
        assert name not in [record["name"] for record in self]
        self.append({"name": name, "ok": ok, **values})

    def of(self, *keys: str) -> list[Record]:
        return [record for record in self if all(key in record for key in keys)]
