"""The parser of one command: its own arguments by argparse, its keys from the config classes, and the help of both."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import Any, NoReturn

from .commands import MISTAKE, Command
from .options import arranged

_COLUMN = 26  # where the text of a key begins
_NARROWEST, _WIDEST = 40, 120


class CommandParser(argparse.ArgumentParser):
    """Arguments of a command; mistakes are one line, and `--help` lists the keys, too."""

    def __init__(self, command: Command) -> None:
        self._own: dict[str, bool] = {}  # option → whether it takes a value
        self._command = command
        super().__init__(
            prog=f"dmpo {command.name}",
            description=command.text,
            epilog=f"example: {command.example}",
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=_COLUMN, width=help_width()),
        )
        command.add_arguments(self)

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        action = super().add_argument(*names, **options)
        self._own |= dict.fromkeys(action.option_strings, action.nargs != 0)
        return action

    def read(self, words: list[str]) -> argparse.Namespace:
        """The arguments in the words after the command's name. Raises ValueError for an unknown option."""
        keys, older = [], []
        if any(word.startswith("--") for word in words) and not {"-h", "--help"} & set(words):
            from ..config.meanings import keys_of
            from ..config.spelling import OLDER_NAMES

            for kind in self._command.keys().values():
                keys += keys_of(kind)
                older += list(getattr(kind, OLDER_NAMES, {}))
        return self.parse_args(arranged(words, self._own, keys, older))

    def format_help(self) -> str:
        return super().format_help() + "".join(f"{line}\n" for line in _keys_help(self._command, help_width()))

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(MISTAKE)


def help_width() -> int:
    """The width of the terminal, within bounds that are pleasant to read."""
    return max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size().columns - 2))


def _keys_help(command: Command, width: int) -> Iterator[str]:
    """The keys that a command takes: groups, names, and each key's meaning, type and default."""
    sections = command.keys()
    if not sections:
        return
    from ..config.meanings import keys_of

    for title, kind in sections.items():
        yield from ("", title)
        group = None
        for key in keys_of(kind):
            if key.group != group:
                group = key.group
                yield from ("", f"{group}:")
            yield from _entry(key.name, key.summary, width)


def _entry(name: str, text: str, width: int) -> list[str]:
    """A name and its text, wrapped beside it; below it where the name is long or the terminal is narrow."""
    column = _COLUMN if width >= 60 else 6
    wrap = {"initial_indent": " " * column, "subsequent_indent": " " * column, "break_on_hyphens": False}
    lines = textwrap.wrap(text, width, **wrap)  # type: ignore[arg-type]
    if len(name) + 4 > column:
        return [f"  {name}", *lines]
    return [f"  {name}".ljust(column) + lines[0].lstrip(), *lines[1:]]
