"""Rewards that a pool must survive, named from tests as `tests.rewards.misbehaving:…`."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any


def fair(completions: list[str], **columns: list[Any]) -> list[float]:
    """Length, plus the column `extra` where there is one; "torch" asks whether this process has imported torch."""
    extra = columns.get("extra", [0] * len(completions))
    return [
        float("torch" in sys.modules) if text == "torch" else float(len(text) + more)
        for text, more in zip(completions, extra, strict=True)
    ]


def harmful(completions: list[str], **columns: list[Any]) -> list[float]:
    """Does what a completion says; otherwise 1."""
    for text in completions:
        if text == "raise":
            raise KeyError("no such thing")
        if text == "exit":
            sys.exit(3)
        if text == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if text == "sleep":
            time.sleep(60)
        if text == "loop":
            while True:
                pass
        if text == "power":
            9**9**9  # C code that no handler in Python interrupts
        if text == "memory":
            bytearray(1 << 34)
        if text == "warden":
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        if text == "print":
            print("noise", flush=True)
    return [1.0] * len(completions)


def wrong_count(completions: list[str], **columns: list[Any]) -> list[float]:
    """One value, whatever was asked."""
    return [0.0]


def late_nan(completions: list[str], **columns: list[Any]) -> list[float]:
    """NaN, except for the empty completions of a check."""
    return [0.0 if text == "" else float("nan") for text in completions]


def process_id(completions: list[str], **columns: list[Any]) -> list[float]:
    """The process that scored each completion; "loop" keeps it."""
    while "loop" in completions:
        pass
    return [float(os.getpid())] * len(completions)


def ones_or_end(completions: list[str], **columns: list[Any]) -> list[float]:
    """One more than the ones in a completion; the end of the process for one with a 2."""
    if any("2" in text for text in completions):
        os._exit(4)
    return [float(text.count("1") + 1) for text in completions]


def late_or_length(completions: list[str], **columns: list[Any]) -> list[float]:
    """NaN for the text nan, a while after another process could have answered."""
    if "nan" in completions:
        time.sleep(0.2)
    return [float("nan") if text == "nan" else float(len(text)) for text in completions]
