"""One thread beside the main one, which runs functions in the order in which they come."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

Value = TypeVar("Value")
Jobs = SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]


class BackgroundThread:
    """A daemon thread that runs submitted functions one after the other. It starts with the first one.

    A thread of `concurrent.futures` is not a daemon: Python waits for it at its exit, so a function without an end
    would keep an interrupted process alive.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._jobs: Jobs = SimpleQueue()
        self._thread: threading.Thread | None = None
        weakref.finalize(self, self._jobs.put, None)  # the thread ends with its owner

    def submit(self, function: Callable[[], Value]) -> Future[Value]:
        """Run the function after all that came before. The future has its value or its exception."""
        if self._thread is None or not self._thread.is_alive():  # a fork of a process has none of its threads
            self._thread = threading.Thread(target=_work, args=(self._jobs,), name=self.name, daemon=True)
            self._thread.start()
        future: Future[Value] = Future()
        self._jobs.put((future, function))
        return future


def _work(jobs: Jobs) -> None:
    while _run_next(jobs):
        pass


def _run_next(jobs: Jobs) -> bool:
    """Run one function; False if there will be no more. What the function holds is free once this has returned."""
    if (job := jobs.get()) is None:
        return False
    future, function = job
    try:
        value = function()
    except BaseException as error:  # SystemExit, too: the thread that waits for the future raises it
        future.set_exception(error)
    else:
        future.set_result(value)
    return True
