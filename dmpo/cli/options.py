"""The words of a command line: own options of a command, keys spelled as options (`--max-steps 4`), and the rest."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..config.meanings import Key

_OPTION = re.compile(r"--?[A-Za-z][\w.-]*(=.*)?", re.DOTALL)
_SWITCH_VALUES = ("true", "false", "yes", "no", "on", "off")


def arranged(words: list[str], own: Mapping[str, bool], keys: Iterable[Key], older: Iterable[str] = ()) -> list[str]:
    """The words as argparse reads them: own options, then `--`, the words that are no options, and then the keys.

    `--key value`, `--key=value` and, for a key that is true or false, `--key` alone become `key=value`; dashes in the
    name of a key count as underscores. After `--` every word is taken as it is.

    Args:
        own: the command's own options, each with whether it takes a value.
        keys: the keys of the command. older: older names of keys.

    Raises:
        ValueError: an option that is neither, or one without its value; the message names the nearest.
    """
    switches = {key.name: key.is_switch for key in keys} | dict.fromkeys(older, False)
    options: list[str] = []
    rest: list[str] = []
    given: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        name, equals, value = word.partition("=")
        key = _key(name)
        if word == "--":
            rest += waiting
            break
        if not _OPTION.fullmatch(word):
            rest.append(word)
        elif name in own:
            options.append(word)
            if own[name] and not equals:
                options.append(_value(name, "FILE", waiting))
        elif name.startswith("--") and key.partition(".")[0] in switches:
            if not equals:
                alone = switches.get(key, False) and not (waiting and waiting[0].lower() in _SWITCH_VALUES)
                value = "true" if alone else _value(name, "VALUE", waiting)
            given.append(f"{key}={value}")
        else:
            raise ValueError(_unknown(name, own, switches))
    return [*options, *(["--"] if rest or given else []), *rest, *given]


def _key(option: str) -> str:
    """The key that an option spells: `--task-options.min-holes` is task_options.min-holes."""
    first, dot, inner = option.lstrip("-").partition(".")
    return first.replace("-", "_") + dot + inner


def _value(option: str, what: str, waiting: list[str]) -> str:
    if not waiting or (_OPTION.fullmatch(waiting[0]) and waiting[0].startswith("--")):
        raise ValueError(f"{option} needs a value: {option} {what}")
    return waiting.pop(0)


def _unknown(option: str, own: Mapping[str, bool], keys: Iterable[str]) -> str:
    spelled = {f"--{key}": key for key in keys}
    near = difflib.get_close_matches(f"--{_key(option)}", [*own, *spelled], n=1)
    if not near:
        return f"unknown option {option}; --help lists all options and keys"
    meant = f"{near[0]}, or {spelled[near[0]]}=VALUE" if near[0] in spelled else near[0]
    return f"unknown option {option}, did you mean {meant}?"
