"""The process behind `WorkerPool`: a warden, which loads a function once and relays calls to a child that it forks.

Whatever a completion does to the child (an endless loop inside C code, all memory, a segmentation fault), the warden
sees its end, says so, and forks another from its own clean state, which takes milliseconds. The warden has one thread
and has imported nothing but the function's module, so that forking it is safe; it never imports torch by itself.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, NoReturn

from .call import RewardError, load_object
from .outcomes import Columns, Outcome, call_here, score_all

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Job:
    """What a worker runs: see `WorkerPool`."""

    name: str
    prepare: str | None
    wall_limit: float
    cpu_limit: float | None
    memory_limit: int | None
    singly: bool


def serve(descriptor: int) -> None:
    """The warden's life: a Job comes in, then requests; it ends when the other side of the connection closes."""
    connection = Connection(descriptor)
    job: Job = connection.recv()
    try:
        function = load_object(job.name, "reward")
        if job.prepare:
            load_object(job.prepare, "preparation")()
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        reply(connection, {"error": f"{kind}{error}"[:500]})
        return
    gc.collect()
    gc.freeze()  # forked children then share these pages for longer
    child = Child(function, job, connection)
    try:
        reply(connection, {"ready": True})
        while True:
            completions, columns = connection.recv()
            try:
                scores = score_all(child.call, completions, columns, singly=job.singly)
                reply(connection, {"values": scores.values, "failures": scores.failures})
            except RewardError as error:
                reply(connection, {"wrong": str(error)})
    except (EOFError, ConnectionError):
        pass  # the pool is closed, or its process gone
    finally:
        child.end()


def reply(connection: Connection, message: dict[str, Any]) -> None:
    """Send a message as JSON: the pool unpickles nothing that comes back."""
    connection.send_bytes(json.dumps(message).encode())


class Child:
    """A forked process that calls the function; replaced when it dies or takes too long."""

    def __init__(self, function: Callable[..., Any], job: Job, upward: Connection) -> None:
        self.function, self.job, self.upward = function, job, upward
        self.pid = 0

    def call(self, completions: list[str], columns: Columns) -> Outcome:
        """One call within the limits."""
        if not self.pid:
            self._fork()
        ready: list[Any] = []
        try:
            self.connection.send((completions, columns))
            ready = wait([self.connection, self.upward], self.job.wall_limit)
            if self.connection in ready:
                return Outcome(*json.loads(self.connection.recv_bytes()))
        except (EOFError, OSError):
            ready = [self.connection]
        status = self.end()
        if self.upward in ready:
            raise EOFError  # nothing comes from above while it waits, but its end
        if not ready:
            return Outcome("timeout", [], f"no result within {self.job.wall_limit:g} s")
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
            return Outcome("timeout", [], f"no result within {self.job.cpu_limit:g} s of CPU time")
        code = os.waitstatus_to_exitcode(status)
        return Outcome("crash", [], f"its process ended with {f'signal {-code}' if code < 0 else f'status {code}'}")

    def end(self) -> int:
        """Make sure that it is gone, with all that it started; its wait status."""
        if not self.pid:
            return 0
        self.connection.close()
        # It may be about to end by itself, with a status that says why: a moment for that, then force.
        pid, status = self._wait(0.2)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if not pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return status

    def _wait(self, seconds: float) -> tuple[int, int]:
        for _ in range(int(seconds * 200)):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return pid, status
            time.sleep(0.005)
        return 0, 0

    def _fork(self) -> None:
        self.connection, theirs = Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self.connection.close()
            self.upward.close()
            _child(theirs, self.function, self.job)
        theirs.close()


def _child(connection: Connection, function: Callable[..., Any], job: Job) -> NoReturn:
    try:
        os.setsid()  # a group of its own, so that what it starts ends with it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if job.memory_limit:
            resource.setrlimit(resource.RLIMIT_AS, (job.memory_limit, job.memory_limit))
        call = partial(call_here, function)
        while True:
            completions, columns = connection.recv()
            # At the limit the kernel ends the process, also amid C code that no Python handler could interrupt.
            signal.setitimer(signal.ITIMER_PROF, job.cpu_limit or 0)
            outcome = call(completions, columns)
            signal.setitimer(signal.ITIMER_PROF, 0)
            connection.send_bytes(json.dumps(outcome).encode())
    finally:
        os._exit(1)
