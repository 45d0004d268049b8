"""Names of the package's own objects, and names `module:name` of the user's objects. Nothing is imported here."""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class Names:
    """The values of a key that takes a name: these, or `module:name`, the user's own object."""

    known: tuple[str, ...]

    def check(self, key: str, value: str) -> None:
        """Raise ValueError for an unknown name, or for a name of another form than `module:name`."""
        if value in self.known:
            return
        if not is_own_name(value):
            near = difflib.get_close_matches(value, self.known, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ","
            choices = f"choose one of {', '.join(self.known)}, or give your own as 'module:name'"
            raise ValueError(f"unknown {key} {value!r}{hint} {choices}")
        module, _, name = value.partition(":")
        if not name.isidentifier() or not all(word.isidentifier() for word in module.split(".")):
            raise ValueError(f"{key} must be named 'module:name', got {value!r}")


def is_own_name(value: str) -> bool:
    """Whether a name is `module:name`, of the user's own object."""
    return ":" in value
