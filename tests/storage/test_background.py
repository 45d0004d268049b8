"""If these fail, work in the background is lost, comes out of order, or outlives its owner."""

from __future__ import annotations

import gc
import threading
import weakref
from functools import partial

import pytest

from dmpo.storage.background import BackgroundThread

WAIT = 30.0  # seconds; only a failing test waits so long


class Owned:
    """Something that a function holds."""


def test_functions_run_in_order_in_one_other_thread() -> None:
    thread, seen, go = BackgroundThread("t"), [], threading.Event()

    def record(number: int) -> int:
        assert go.wait(WAIT)
        seen.append((number, threading.current_thread().name))
        return number

    futures = [thread.submit(partial(record, number)) for number in range(3)]
    assert seen == []
    go.set()
    assert [future.result(WAIT) for future in futures] == [0, 1, 2]
    assert seen == [(0, "t"), (1, "t"), (2, "t")]


def test_an_error_is_raised_where_the_result_is_asked_for() -> None:
    thread = BackgroundThread("t")

    def leave() -> None:
        raise SystemExit(3)

    failed, next_one = thread.submit(leave), thread.submit(lambda: 1)
    with pytest.raises(SystemExit):
        failed.result(WAIT)
    assert next_one.result(WAIT) == 1


def test_what_a_function_holds_is_freed_and_the_thread_ends_with_its_owner() -> None:
    thread, owned = BackgroundThread("t-that-ends"), Owned()
    alive = weakref.ref(owned)
    future = thread.submit(partial(id, owned))
    del owned
    future.result(WAIT)
    thread.submit(lambda: None).result(WAIT)
    assert alive() is None
    worker = next(worker for worker in threading.enumerate() if worker.name == "t-that-ends")
    assert worker.daemon, "a process that is interrupted does not wait for it"
    del thread
    gc.collect()
    worker.join(WAIT)
    assert not worker.is_alive()
