"""The `dmpo` command: it chooses a command, runs it, and says in one line what went wrong."""

from __future__ import annotations

import difflib
import logging
import os
import sys
import textwrap

from ..storage.terminal import discard_output, replace_unprintable
from . import config, convert, evaluate, generate, info, launch, merge, plan, pretrain, sft, train, view
from .commands import INTERRUPTED, MISTAKE, Command
from .parser import CommandParser, help_width

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        *(train.COMMAND, sft.COMMAND, config.COMMAND, plan.COMMAND, generate.COMMAND, evaluate.COMMAND),
        *(view.COMMAND, merge.COMMAND, convert.COMMAND, pretrain.COMMAND, launch.COMMAND, info.COMMAND),
    )
}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status. DMPO_TRACEBACK=1 shows where an error came from.

    0: done. 1: `dmpo plan` found that the run does not fit. 2: the user's mistake, named in one line. 3: a run ended
    without a single step, as each step was skipped. 130: interrupted.
    """
    replace_unprintable()
    name, *words = (sys.argv[1:] if argv is None else argv) or [""]
    try:
        if name in COMMANDS:
            return _run(COMMANDS[name], words)
        return _without_command(name)
    except BrokenPipeError:  # the reader has left, as head does
        discard_output()
        return 0


def _run(command: Command, words: list[str]) -> int:
    sys.path.append("")  # a task or reward of one's own lies in the current folder
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        status = command.run(CommandParser(command).read(words)) or 0
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except (ValueError, TypeError, ImportError, OSError, FloatingPointError) as error:
        if os.environ.get("DMPO_TRACEBACK"):
            raise
        print(f"dmpo {command.name}: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print(f"interrupted; {command.after_interrupt}", file=sys.stderr)
        return INTERRUPTED
    return status


def _without_command(word: str) -> int:
    """`dmpo` alone, `dmpo --help`, `dmpo --version`, or a word that is no command."""
    if word in ("--version", "-V"):
        from .. import __version__

        print(f"dmpo {__version__}")
        return 0
    if word in ("", "-h", "--help"):
        print(_help(), flush=True)
        return 0 if word else MISTAKE
    near = difflib.get_close_matches(word, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(COMMANDS)}"
    print(f"dmpo: no command {word!r}, {hint}", file=sys.stderr)
    return MISTAKE


def _help() -> str:
    width = help_width()
    lines = ["usage: dmpo COMMAND …; dmpo COMMAND --help tells all about one; dmpo --version", ""]
    lines += ["Reinforcement learning for masked diffusion language models.", ""]
    for command in COMMANDS.values():
        lines += textwrap.wrap(command.text, width, initial_indent=f"  {command.name:<13}", subsequent_indent=" " * 15)
        lines.append(f"{'':<15}{command.example}")
    return "\n".join(lines)
