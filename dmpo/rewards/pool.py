"""The trainer's reward: it runs in worker processes or in this process, and its failures do not end the run."""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial
from typing import Any

from ..storage.background import BackgroundThread
from . import math_reward as mathematics
from .call import Reward, RewardError, load_object
from .outcomes import Columns, Scores, call_here, score_all
from .worker_pool import WorkerPool

log = logging.getLogger("dmpo")

# These take bounded time, and less of it than a message to another process. `math` has workers of its own.
_RUN_HERE = frozenset(f"dmpo.rewards:{name}" for name in ("gsm8k", "math", "countdown", "sudoku"))


class RewardPool:
    """A reward whose failures never end the run: a completion on which it fails scores 0.

    A reward given by name (`module:function`) runs in worker processes with a time limit (see `WorkerPool`), except the
    rewards of `dmpo.rewards`, which run in this process. A function or method given as an object runs in this process
    too: its exceptions are caught, but an endless call cannot be stopped. If a batch fails, each completion is scored
    alone. The completions that fail alone score 0, and `failures` counts them.

    A reward scores each completion from its own text and columns: a call gets only some completions of a round. During
    training the calls come from `thread`, while the model decodes the next completions (see `RoundScoring`). There a
    call has whole groups, as far as a rank has them whole; the workers of a reward given by name share its completions.

    Args:
        reward: the function or its name.
        workers: number of processes for a reward given by name; None for the cores of this rank, at most 4.
        timeout: seconds of one call of a reward given by name.

    Attributes:
        failures: number of completions that scored 0 because the reward failed, by kind: timeout, crash, exception.
        thread: the thread that calls the reward during training.
    """

    def __init__(self, reward: Reward | str, *, workers: int | None = None, timeout: float = 60.0) -> None:
        self.name = reward if isinstance(reward, str) else getattr(reward, "__name__", repr(reward))
        self.failures: Counter[str] = Counter()
        self.workers: WorkerPool | None = None
        self.thread = BackgroundThread(f"reward {self.name}")
        if isinstance(reward, str) and reward not in _RUN_HERE:
            self.workers = WorkerPool(reward, workers=workers, wall_limit=timeout)
        else:
            self.reward: Reward = load_object(reward, "reward") if isinstance(reward, str) else reward

    def check(self, row: dict[str, Any]) -> None:
        """Call the reward once on two empty completions of a row, so that a broken reward is found early.

        Raises:
            ValueError: the reward cannot be loaded, raises, crashes, takes too long, or does not return one finite
                number for each completion.
        """
        scores = self.attempt(["", ""], {name: [value] * 2 for name, value in row.items()}, whole=True)
        if scores.failures:
            first = scores.failures[0]
            raise ValueError(f"reward {self.name} fails on an empty completion ({first.kind}): {first.message}")

    def score(self, completions: list[str], columns: Columns) -> Scores:
        """One finite number for each completion. Failures score 0, are counted, and are logged in one line.

        Raises:
            RewardError: (a ValueError) the reward did not return one finite number for each completion.
        """
        scores = self.attempt(completions, columns)
        self.record(scores)
        return scores

    def attempt(self, completions: list[str], columns: Columns, *, whole: bool = False) -> Scores:
        """As `score`, but failures are neither counted nor logged. With `whole`, one worker gets all completions."""
        if self.workers:
            return self.workers.score(completions, columns, whole=whole)
        with mathematics.failures() as inner:
            scores = score_all(partial(call_here, self.reward), completions, columns)
        return Scores(scores.values, [*scores.failures, *inner])

    def attempt_in_thread(self, completions: list[str], columns: Columns) -> Scores | None:
        """As `attempt`, but None if a function in this process raised an exception: `attempt` must be called again in
        the main thread. Some functions work only there, for example those that set an alarm."""
        if self.workers:
            return self.workers.score(completions, columns)
        with mathematics.failures() as inner:
            outcome = call_here(self.reward, completions, columns)
        if outcome.kind == "wrong":
            raise RewardError(outcome.message)
        return Scores(outcome.values, inner) if outcome.kind == "values" else None

    def record(self, scores: Scores) -> None:
        """Count the failures of a batch, and log them in one line."""
        if scores.failures:
            self.failures.update(failure.kind for failure in scores.failures)
            first = scores.failures[0]
            log.warning(
                "reward %s failed on %d of %d completions, which score 0; the first failure (%s): %s",
                *(self.name, len(scores.failures), len(scores.values), first.kind, first.message),
            )

    def close(self) -> None:
        """End the worker processes, if there are any."""
        if self.workers:
            self.workers.close()
