"""If this fails, a run on several ranks that has done all its work may hang instead of ending."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import pytest
import torch

from dmpo.distributed.ranks import end_together, make_accelerator
from tests.ranks.launch import on_ranks, results


def end_before_the_threads_have_settled() -> None:
    """Threads of the process group run when nothing else wants their core, and Python's lock is only given up freely.

    So they still have an all-reduce to drop when the model dies. Without the group kept alive most such ends hung.
    """
    accelerator = make_accelerator(".", [])
    model = accelerator.prepare(torch.nn.Linear(2, 2))
    accelerator.wait_for_everyone()
    for thread in map(int, os.listdir("/proc/self/task")):
        with contextlib.suppress(ProcessLookupError):  # it ended
            os.sched_setaffinity(thread, {min(os.sched_getaffinity(0))})
            if thread != os.getpid():
                os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
    sys.setswitchinterval(1000)
    accelerator.reduce(torch.ones(3))
    end_together(accelerator)
    accelerator.free_memory()
    del model


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="thread priorities are set as on Linux")
def test_model_may_die_as_soon_as_a_run_has_ended(tmp_path: Path) -> None:
    for attempt in range(2):
        results(on_ranks(2, end_before_the_threads_have_settled, folder=tmp_path / str(attempt)))
