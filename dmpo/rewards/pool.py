"""What the trainer scores with: a reward, where it runs, and what becomes of a completion that it fails on."""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial
from typing import Any

from . import mathematics
from .call import Reward, load_object
from .outcomes import Columns, Scores, call_here, score_all
from .workers import WorkerPool

log = logging.getLogger("dmpo")

# Bounded by construction, and cheaper than a message to another process. `math` keeps workers of its own.
_IN_PLACE = frozenset(f"dmpo.rewards:{name}" for name in ("gsm8k", "math", "countdown", "sudoku"))


class RewardPool:
    """A reward whose failures cost a completion its score, never a run its life.

    A reward that is named (`module:function`) runs in worker processes with a limit of time (see `WorkerPool`), save
    the pure ones of `dmpo.rewards`. A function or method that is handed over as an object runs in this process: its
    exceptions are caught, but nothing can stop it. What fails as a batch is asked again completion by completion; the
    guilty ones score 0 and are counted in `failures`.

    Args:
        reward: the function or its name. Completions may reach it in parts of a batch.
        workers: processes for a named one; None for as many as cores for this rank, at most 4.
        timeout: seconds of one call of a named one.

    Attributes:
        failures: completions that scored 0 so far because the reward failed, by kind: timeout, crash, exception.
    """

    def __init__(self, reward: Reward | str, *, workers: int | None = None, timeout: float = 60.0) -> None:
        self.name = reward if isinstance(reward, str) else getattr(reward, "__name__", repr(reward))
        self.failures: Counter[str] = Counter()
        self.workers: WorkerPool | None = None
        if isinstance(reward, str) and reward not in _IN_PLACE:
            self.workers = WorkerPool(reward, workers=workers, wall_limit=timeout)
        else:
            self.reward: Reward = load_object(reward, "reward") if isinstance(reward, str) else reward

    def check(self, row: dict[str, Any]) -> None:
        """Call the reward once on two empty completions of a row.

        Raises:
            ValueError: it cannot be loaded, returns something else than one finite number a completion, raises,
                crashes or takes too long. Whatever goes wrong here would go wrong all along.
        """
        scores = self._score(["", ""], {name: [value] * 2 for name, value in row.items()}, whole=True)
        if scores.failures:
            first = scores.failures[0]
            raise ValueError(f"reward {self.name} fails on an empty completion ({first.kind}): {first.message}")

    def score(self, completions: list[str], columns: Columns) -> Scores:
        """One finite number a completion; what failed is 0, counted, and told in one line of the log.

        Raises:
            RewardError: (a ValueError) the reward returned something else than one finite number a completion.
        """
        scores = self._score(completions, columns)
        if scores.failures:
            self.failures.update(failure.kind for failure in scores.failures)
            first = scores.failures[0]
            log.warning(
                "reward %s failed on %d of %d completions, which score 0; the first (%s): %s",
                *(self.name, len(scores.failures), len(completions), first.kind, first.message),
            )
        return scores

    def close(self) -> None:
        """End the workers, if there are any."""
        if self.workers:
            self.workers.close()

    def _score(self, completions: list[str], columns: Columns, *, whole: bool = False) -> Scores:
        if self.workers:
            return self.workers.score(completions, columns, whole=whole)
        with mathematics.failures() as inner:
            scores = score_all(partial(call_here, self.reward), completions, columns)
        return Scores(scores.values, [*scores.failures, *inner])
