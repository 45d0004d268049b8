"""What a person reads on a terminal never ends a run: not its encoding, and not a reader who has left."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


_WIDTH_OF_FILES = 1000


def replace_unprintable() -> None:
    """Let stdout and stderr print "?" for a character that their encoding lacks, in place of an exception."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def discard_output() -> None:
    """Send what is still printed to nowhere: the reader of the pipe has left (`dmpo ... | head -1`)."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def make_console(**options: Any) -> Console:
    """A rich console that prints on terminals of any encoding, and goes on where the reader has left.

    A file or a pipe has no width, so nothing is wrapped or cut there.
    """
    from rich.console import Console

    class PatientConsole(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True
            discard_output()

    replace_unprintable()
    console = PatientConsole(highlight=False, **options)
    if not console.is_terminal and not console.is_jupyter and "width" not in options:
        console.width = _WIDTH_OF_FILES
    return console
