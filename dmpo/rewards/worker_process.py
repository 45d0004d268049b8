"""The worker process of `WorkerPool`: a supervisor. It loads a function once and sends calls to a child that it forks.

A completion may send the child into an endless loop inside C code, fill the memory, or cause a segmentation fault. Then
the supervisor ends the child, reports it, and forks another child from its own clean state in milliseconds. The
supervisor has one thread and imports only the function's module, so that a fork is safe. It does not import torch.
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
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, NoReturn

from .call import call_here, calls_singly, load_object, load_reward, score_all
from .errors import RewardError
from .judging import most_seconds
from .outcomes import Columns, Outcome

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Job:
    """The function of a worker and its limits, as `WorkerPool` describes them."""

    name: str
    prepare: str | None
    wall_limit: float
    cpu_limit: float | None
    memory_limit: int | None
    singly: bool
    options: dict[str, Any] = field(default_factory=dict)
    optional: bool = False


def serve(descriptor: int) -> None:
    """The supervisor process: receives a Job, then requests; exits when the other side closes the connection."""
    connection = Connection(descriptor)
    job: Job = connection.recv()
    try:
        function = load_reward(job.name, job.options)
        if job.prepare:
            load_object(job.prepare, "preparation")()
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        reply(connection, {"error": f"{kind}{error}"[:500]})
        return
    gc.collect()
    gc.freeze()  # the garbage collector of a child then does not copy these pages
    singly = job.singly or calls_singly(function)
    child = Child(function, job, connection)
    try:
        reply(connection, {"ready": True, "judge_seconds": most_seconds(function, 1)})
        while True:
            completions, columns = connection.recv()
            try:
                scores = score_all(child.call, completions, columns, singly=singly)
                reply(connection, {"values": scores.values, "failures": scores.failures})
            except RewardError as error:
                reply(connection, {"wrong": str(error)})
    except (EOFError, ConnectionError):
        pass  # the pool is closed, or its process has ended
    finally:
        child.end()


def reply(connection: Connection, message: dict[str, Any]) -> None:
    """Send a message as JSON, because the pool must not unpickle what a worker sends."""
    connection.send_bytes(json.dumps(message).encode())


class Child:
    """A forked process that calls the function. It is replaced if it crashes or takes too long."""

    def __init__(self, function: Callable[..., Any], job: Job, upward: Connection) -> None:
        self.function, self.job, self.upward = function, job, upward
        self.pid = 0

    def call(self, completions: list[str], columns: Columns) -> Outcome:
        """One call within the limits."""
        if not self.pid:
            self._fork()
        ready: list[Any] = []
        limit = self.job.wall_limit + most_seconds(self.function, len(completions))
        try:
            self.connection.send((completions, columns))
            ready = wait([self.connection, self.upward], limit)
            if self.connection in ready:
                return Outcome.read(json.loads(self.connection.recv_bytes()))
        except (EOFError, OSError):
            ready = [self.connection]
        status = self.end()
        if self.upward in ready:
            raise EOFError  # the pool sends nothing during a call, so it has closed the connection
        if not ready:
            return Outcome("timeout", [], f"no result within {limit:g} s")
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
            return Outcome("timeout", [], f"no result within {self.job.cpu_limit:g} s of CPU time")
        code = os.waitstatus_to_exitcode(status)
        return Outcome("crash", [], f"the process ended with {f'signal {-code}' if code < 0 else f'status {code}'}")

    def end(self) -> int:
        """End the child and every process that it started. Returns the child's wait status."""
        if not self.pid:
            return 0
        self.connection.close()
        # The child may be ending by itself, with a status that explains why. So wait a moment before killing it.
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
        self.connection, child_end = Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self.connection.close()
            self.upward.close()
            _child(child_end, self.function, self.job)
        child_end.close()


def _child(connection: Connection, function: Callable[..., Any], job: Job) -> NoReturn:
    try:
        os.setsid()  # a process group of its own: `Child.end` kills the group
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if job.memory_limit:
            resource.setrlimit(resource.RLIMIT_AS, (job.memory_limit, job.memory_limit))
        call = partial(call_here, function, optional=job.optional)
        while True:
            completions, columns = connection.recv()
            # At the limit the operating system ends the process, even inside C code, where no Python handler runs.
            signal.setitimer(signal.ITIMER_PROF, job.cpu_limit or 0)
            outcome = call(completions, columns)
            signal.setitimer(signal.ITIMER_PROF, 0)
            connection.send_bytes(json.dumps(outcome).encode())
    finally:
        os._exit(1)
