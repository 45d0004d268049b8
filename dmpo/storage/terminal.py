"""What a person reads on a terminal never ends a run: not its encoding, and not a reader who has left."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


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
    """A rich console that prints on terminals of any encoding, and goes on where the reader has left."""
    from rich.console import Console

    class PatientConsole(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True
            discard_output()

    replace_unprintable()
    return PatientConsole(highlight=False, **options)
