"""What a command is, and the exit statuses."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass

DOES_NOT_FIT, MISTAKE, NO_STEP_TAKEN, INTERRUPTED = 1, 2, 3, 130  # exit statuses


def _no_keys() -> Mapping[str, type]:
    return {}


@dataclass(frozen=True)
class Command:
    """One command of `dmpo`.

    text: one sentence, for the help. example: a whole command line. add_arguments: adds the command's own arguments and
    options. run: does the work, and returns the exit status or None for 0. keys: config classes whose keys the command
    takes as `key=value` and `--key value`, each under a title for the help; called only when they are needed.
    after_interrupt: what to do after Ctrl-C.
    """

    name: str
    text: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]
    keys: Callable[[], Mapping[str, type]] = _no_keys
    after_interrupt: str = "nothing is kept"
