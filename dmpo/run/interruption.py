"""Signals that ask a run to leave: the step in hand is finished and saved first, on every rank."""

from __future__ import annotations

import logging
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from accelerate import Accelerator

from ..parallel import summed

log = logging.getLogger("dmpo")

# SIGTERM: a scheduler, or torchrun, wants the machine. SIGUSR1: SLURM's usual warning before a time limit.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))


class Interrupted(SystemExit):
    """A run that left because a signal asked it to; the exit status is 128 + the signal's number, as in a shell."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class SignalWatch:
    """Inside the context the first signal is noted instead of obeyed; a second SIGINT stops the process at once.

    Outside of the main thread, where Python takes no signals, nothing changes.
    """

    def __init__(self, *, speaks: bool = True) -> None:
        self.noted: int | None = None
        self._speaks = speaks
        self._before: dict[int, Any] = {}

    def __enter__(self) -> SignalWatch:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def received(self, accelerator: Accelerator) -> int | None:
        """A signal that any rank has noted, the same on every rank, or None. Called by all of them after each step."""
        if accelerator.num_processes == 1:
            return self.noted
        counts = summed(accelerator, *(self.noted == number for number in SIGNALS))
        return next((int(number) for number, count in zip(SIGNALS, counts, strict=True) if count), None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.noted is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.noted = number
        if self._speaks:  # not through buffers and their locks, which this may have interrupted
            again = "; once more: stop at once" if number == signal.SIGINT else ""
            os.write(2, f"\n{signal.Signals(number).name}: finishing the step, then saving{again}\n".encode())
