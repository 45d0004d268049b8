"""Signals that ask a run to end: every rank first finishes and saves the current step."""

from __future__ import annotations

import logging
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from accelerate import Accelerator

from ..distributed.ranks import summed

log = logging.getLogger("dmpo")

# A scheduler or torchrun sends SIGTERM to free the machine. SLURM usually sends SIGUSR1 before a time limit.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))


class Interrupted(SystemExit):
    """A run ended because of a signal. The exit status is 128 + the number of the signal, as in a shell."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


class SignalWatch:
    """Inside the context the first signal is only recorded. A second SIGINT stops the process at once.

    Outside of the main thread Python handles no signals, so the context does nothing there. With `prints`, a message on
    stderr reports the first signal.
    """

    def __init__(self, *, prints: bool = True) -> None:
        self.recorded: int | None = None
        self._prints = prints
        self._handlers_before: dict[int, Any] = {}

    def __enter__(self) -> SignalWatch:
        if threading.current_thread() is threading.main_thread():
            self._handlers_before = {number: signal.signal(number, self._record) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        self._handlers_before = {}

    def received(self, accelerator: Accelerator) -> int | None:
        """A signal that any rank has received, the same on every rank; None without one. All ranks call this."""
        if accelerator.num_processes == 1:
            return self.recorded
        counts = summed(accelerator, *(self.recorded == number for number in SIGNALS))
        return next((int(number) for number, count in zip(SIGNALS, counts, strict=True) if count), None)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.recorded is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.recorded = number
        if self._prints:  # without Python's buffers, whose locks the interrupted code may have
            again = "; press Ctrl-C again to stop at once" if number == signal.SIGINT else ""
            os.write(2, f"\n{signal.Signals(number).name}: finishing the step, then saving{again}\n".encode())
