"""A pool of worker processes that run a function of a reward's form, within limits of time and memory."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import weakref
from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise
from multiprocessing.connection import Connection, Pipe
from threading import Lock
from typing import Any

from .errors import RewardError
from .outcomes import Columns, Failure, Scores, slice_columns
from .worker_process import Job

START_LIMIT = 180.0  # seconds in which a worker must import the function's module
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from dmpo.rewards.worker_process import serve; serve(int(sys.argv[2]))"
)


class WorkerPool:
    """Worker processes that run one reward, a function of one of the forms of `RewardForm`.

    If a call crashes, raises or takes too long, it is repeated with one completion at a time. A completion that fails
    alone scores 0 and is reported. The workers start at the first call and stay for the next ones. Each is a new Python
    process, and not a fork of this process, which may use a GPU and threads. An `async` function waits more than it
    computes: one worker calls it, within the limits of its own (`judge`), to which `wall_limit` is added.

    Args:
        name: the function, as `module:function`.
        workers: number of processes; None for the cores of this rank, at most 4. They share the completions.
        wall_limit: seconds of one call of the function.
        cpu_limit: seconds of CPU time of one call, which the operating system enforces; None for no such limit. Unlike
            `wall_limit` it does not depend on how busy the machine is.
        memory_limit: bytes of address space of the process that calls the function; None for no limit.
        singly: call the function with one completion at a time, so that the limits hold for each completion.
        prepare: a function `module:function` without arguments. A worker calls it once, before the limits apply.
        options: keyword arguments of the function, beside the columns.
        optional: the function may return None for a completion (`read_values`).
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
        options: Mapping[str, Any] | None = None,
        optional: bool = False,
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be ≥ 1, got {workers}")
        if wall_limit <= 0 or (cpu_limit is not None and cpu_limit <= 0):
            raise ValueError(
                f"wall_limit and cpu_limit must be > 0 seconds, got wall_limit {wall_limit} and cpu_limit {cpu_limit}"
            )
        self.job = Job(name, prepare, wall_limit, cpu_limit, memory_limit, singly, dict(options or {}), optional)
        self.most_workers = workers or default_workers()
        self.lock = Lock()
        self.workers: list[Worker] = []
        self.owner = os.getpid()

    def score(self, completions: list[str], columns: Columns, *, whole: bool = False) -> Scores:
        """The scores of the completions, in their order. A completion that cannot be scored is 0 and reported.

        With `whole`, one worker gets all completions.

        Raises:
            RewardError: the function did not return one finite number for each completion.
            ValueError: the function cannot be loaded.
        """
        if not completions:
            return Scores([])
        with self.lock:
            least = 4 if self.job.singly else 1  # fewer completions are not worth another process
            count = 1 if whole else min(self.most_workers, -(-len(completions) // least))
            count = 1 if self._is_judge(count) else count
            bounds = [len(completions) * i // count for i in range(count + 1)]
            requests = [(completions[a:b], slice_columns(columns, a, b)) for a, b in pairwise(bounds)]
            try:
                replies = self._ask(requests)
            except BaseException:  # Ctrl-C, too: an answer that is still to come would be read as the next call's
                self._end_workers()
                raise
        scores = Scores([])
        for start, reply in zip(bounds, replies, strict=False):
            scores.values.extend(reply.values)
            scores.failures.extend(failure._replace(row=failure.row + start) for failure in reply.failures)
        return scores

    def close(self) -> None:
        """End the workers; the next call starts new ones."""
        with self.lock:
            self._end_workers()

    def _end_workers(self) -> None:
        while self.workers:
            self.workers.pop().close()

    def _is_judge(self, count: int) -> bool:
        """Whether the function is `async`, which the first worker knows; so many workers start where there is none."""
        self._start(1 if self.workers else count)
        if not self.workers[0].ready:
            self.workers[0].await_ready()
        return self.workers[0].judge_seconds > 0

    def _start(self, count: int) -> None:
        """Start workers until there are so many."""
        if self.owner != os.getpid():  # this process is a fork: the workers belong to its parent
            self.owner, self.workers = os.getpid(), []
        while len(self.workers) < count:
            self.workers.append(Worker(self.job))

    def _ask(self, requests: list[tuple[list[str], Columns]]) -> list[Scores]:
        self._start(len(requests))
        for index, request in enumerate(requests):
            self.workers[index].send(request)
        replies: list[Scores | None] = [self.workers[i].receive(len(request[0])) for i, request in enumerate(requests)]
        results = []
        for index, (request, scores) in enumerate(zip(requests, replies, strict=True)):
            if scores is None:  # the worker has ended, for example because the memory was full: try once more
                self.workers[index].close()
                self.workers[index] = Worker(self.job)
                self.workers[index].send(request)
                scores = self.workers[index].receive(len(request[0]))
            if scores is None:
                self.workers[index].close()
                self.workers[index] = Worker(self.job)
                count = len(request[0])
                scores = Scores([0.0] * count, [Failure(i, "crash", "the worker ended twice") for i in range(count)])
            results.append(scores)
        return results


class Worker:
    """The pool's connection to one worker process."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.ready = False
        self.judge_seconds = 0.0  # the longest time for one completion, if the function is async
        self.connection, worker_end = Pipe()
        paths = json.dumps([os.path.abspath(path) for path in sys.path])
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START, paths, str(worker_end.fileno())],
            pass_fds=[worker_end.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=2,  # a reward that prints must not write into this program's output
            start_new_session=True,  # Ctrl-C goes only to the process that owns the pool
        )
        worker_end.close()
        self.close = weakref.finalize(self, _end, self.connection, self.process)
        self._send(job)

    def send(self, request: tuple[list[str], Columns]) -> None:
        """Send a request. If the worker has ended, `receive` returns None."""
        if not self.ready:
            self.await_ready()
        self._send(request)

    def receive(self, count: int) -> Scores | None:
        """The scores of the last request, of `count` completions; None if the worker has ended."""
        # longer than the worker's own limits together
        limit = (count + 1) * (self.job.wall_limit + self.judge_seconds + 5.0)
        try:
            message = self._receive(limit)
        except (EOFError, OSError):
            return None
        if "wrong" in message:
            raise RewardError(message["wrong"])
        return Scores(message["values"], [Failure(*failure) for failure in message["failures"]])

    def await_ready(self) -> None:
        """Wait until the worker has imported the function. Raises ValueError if that fails."""
        try:
            message = self._receive(START_LIMIT)
        except (EOFError, OSError):
            raise ValueError(f"reward {self.job.name!r}: the process ended while it was imported") from None
        if "error" in message:
            raise ValueError(f"reward {self.job.name!r} cannot be used: {message['error']}")
        self.ready, self.judge_seconds = True, message["judge_seconds"]

    def _send(self, message: Any) -> None:
        try:
            packed = pickle.dumps(message)
        except Exception as error:  # pickle may raise any exception
            raise ValueError(
                f"reward {self.job.name!r}: a column cannot be sent to the reward's process: {error}"
            ) from error
        with suppress(OSError):
            self.connection.send_bytes(packed)

    def _receive(self, seconds: float) -> Any:
        if not self.connection.poll(seconds):
            raise EOFError
        return json.loads(self.connection.recv_bytes())


def default_workers() -> int:
    """The number of cores for each rank on this machine, at most 4."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(4, len(os.sched_getaffinity(0)) // ranks))


def _end(connection: Connection, process: subprocess.Popen[bytes]) -> None:
    connection.close()
    try:
        process.wait(0.5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
