"""Functions of the form of a reward, run in parallel processes of their own, with limits that nothing escapes."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
import weakref
from contextlib import suppress
from itertools import pairwise
from multiprocessing.connection import Connection, Pipe
from threading import Lock
from typing import Any

from .call import RewardError
from .outcomes import Columns, Failure, Scores, part
from .worker import Job

START_LIMIT = 180.0  # seconds for a worker to import the function's module
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from dmpo.rewards.worker import serve; serve(int(sys.argv[2]))"
)


class WorkerPool:
    """Worker processes that run one function `(completions, **columns) -> list[float]`.

    A call that crashes, raises or takes too long is repeated completion by completion; the guilty ones score 0 and are
    reported, the others are scored. Workers are started at the first call, by executing Python anew (never by forking
    this process, which may hold a GPU and threads), and they stay.

    Args:
        name: the function, as `module:function`.
        workers: processes; None for as many as cores for this rank, at most 4. Completions are dealt among them.
        wall_limit: seconds of one call of the function.
        cpu_limit: seconds of CPU time of one call, kept by the kernel; None for no such limit. On a busy machine it is
            the fair one of the two.
        memory_limit: bytes of address space of the process that calls the function; None for no limit.
        singly: call the function with one completion at a time, so that each has a limit of its own.
        prepare: a function `module:function` without arguments that a worker calls once, before any limit counts.
    """

    def __init__(
        self,
        name: str,
        *,
        workers: int | None = None,
        wall_limit: float = 60.0,
        cpu_limit: float | None = None,
        memory_limit: int | None = None,
        singly: bool = False,
        prepare: str | None = None,
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be ≥ 1, got {workers}")
        if wall_limit <= 0 or (cpu_limit is not None and cpu_limit <= 0):
            raise ValueError(f"limits must be > 0 seconds, got wall_limit {wall_limit} and cpu_limit {cpu_limit}")
        self.job = Job(name, prepare, wall_limit, cpu_limit, memory_limit, singly)
        self.size = workers or default_workers()
        self.lock = Lock()
        self.workers: list[Worker] = []
        self.owner = os.getpid()

    def score(self, completions: list[str], columns: Columns, *, whole: bool = False) -> Scores:
        """Scores of the completions, in their order; what a failing worker cannot score is 0 and reported.

        `whole` gives all of them to one worker.

        Raises:
            RewardError: the function returned something else than one finite number a completion.
            ValueError: the function cannot be loaded.
        """
        if not completions:
            return Scores([])
        with self.lock:
            least = 4 if self.job.singly else 1  # fewer are not worth another process
            count = 1 if whole else min(self.size, -(-len(completions) // least))
            bounds = [len(completions) * i // count for i in range(count + 1)]
            parts = [(completions[a:b], part(columns, a, b)) for a, b in pairwise(bounds)]
            found = self._ask(parts)
        scores = Scores([])
        for start, some in zip(bounds, found, strict=False):
            scores.values.extend(some.values)
            scores.failures.extend(failure._replace(row=failure.row + start) for failure in some.failures)
        return scores

    def close(self) -> None:
        """End the workers; the next call starts new ones."""
        with self.lock:
            while self.workers:
                self.workers.pop().close()

    def _ask(self, parts: list[tuple[list[str], Columns]]) -> list[Scores]:
        if self.owner != os.getpid():  # a fork of the process that started them: its workers are not ours
            self.owner, self.workers = os.getpid(), []
        while len(self.workers) < len(parts):
            self.workers.append(Worker(self.job))
        for index, request in enumerate(parts):
            self.workers[index].send(request)
        found: list[Scores | None] = [self.workers[i].receive(len(request[0])) for i, request in enumerate(parts)]
        results = []
        for index, (request, scores) in enumerate(zip(parts, found, strict=True)):
            if scores is None:  # the worker itself is gone, as when the machine ran out of memory: once more
                self.workers[index].close()
                self.workers[index] = Worker(self.job)
                self.workers[index].send(request)
                scores = self.workers[index].receive(len(request[0]))
            if scores is None:
                self.workers[index].close()
                self.workers[index] = Worker(self.job)
                count = len(request[0])
                scores = Scores([0.0] * count, [Failure(i, "crash", "its worker ended twice") for i in range(count)])
            results.append(scores)
        return results


class Worker:
    """One worker process, from this side."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.ready = False
        self.started = time.monotonic()
        self.connection, theirs = Pipe()
        paths = json.dumps([os.path.abspath(path) for path in sys.path])
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START, paths, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=2,  # what a reward prints belongs to no one's output
            start_new_session=True,  # Ctrl-C is for the process that owns the pool
        )
        theirs.close()
        self.close = weakref.finalize(self, _end, self.connection, self.process)
        self._send(job)

    def send(self, request: tuple[list[str], Columns]) -> None:
        """Hand over a request; a worker that is gone is noticed by `receive`."""
        if not self.ready:
            self._await_ready()
        self._send(request)

    def receive(self, count: int) -> Scores | None:
        """The scores of the request of `count` completions, or None if the worker is gone."""
        limit = (count + 1) * (self.job.wall_limit + 5.0)  # its own limits come first
        try:
            message = self._receive(limit)
        except (EOFError, OSError):
            return None
        if "wrong" in message:
            raise RewardError(message["wrong"])
        return Scores(message["values"], [Failure(*failure) for failure in message["failures"]])

    def _await_ready(self) -> None:
        try:
            message = self._receive(START_LIMIT)
        except (EOFError, OSError):
            raise ValueError(f"reward {self.job.name!r}: its process ended while it was imported") from None
        if "error" in message:
            raise ValueError(f"reward {self.job.name!r} cannot be used: {message['error']}")
        self.ready = True

    def _send(self, message: Any) -> None:
        try:
            packed = pickle.dumps(message)
        except Exception as error:  # pickle raises what it likes
            raise ValueError(f"reward {self.job.name!r}: a column cannot be sent to its process: {error}") from error
        with suppress(OSError):
            self.connection.send_bytes(packed)

    def _receive(self, seconds: float) -> Any:
        if not self.connection.poll(seconds):
            raise EOFError
        return json.loads(self.connection.recv_bytes())


def default_workers() -> int:
    """As many as cores for each rank on this machine, at most 4."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(4, len(os.sched_getaffinity(0)) // ranks))


def _end(connection: Connection, process: subprocess.Popen[bytes]) -> None:
    connection.close()
    try:
        process.wait(0.5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
