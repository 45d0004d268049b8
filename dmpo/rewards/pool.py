"""The trainer's reward: a weighted sum of one reward or several. Their failures do not end the run."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from functools import partial
from typing import Any

from ..storage.background import BackgroundThread
from .entries import RewardEntry, read_entries, read_weights
from .errors import RewardError
from .outcomes import Columns, Failure, Scores
from .runner import RewardRunner, runs_apart
from .worker_pool import default_workers

log = logging.getLogger("dmpo")


class RewardPool:
    """The weighted sum of rewards, whose failures never end the run: where a reward fails, its part of the sum is 0.

    A reward given by name (`module:function`) runs in worker processes with a time limit (see `WorkerPool`), except the
    rewards of `dmpo.rewards`, which run in this process. A function or method given as an object runs in this process
    too: its exceptions are caught, but an endless call cannot be stopped. If a batch fails, each completion is scored
    alone. The completions on which a reward fails alone are counted in `failures`.

    A reward scores each completion from its own text and columns: a call gets only some completions of a round. During
    training the calls come from `thread`, while the model decodes the next completions (see `RoundScoring`). There a
    call has whole groups, as far as a rank has them whole; the workers of a reward given by name share its completions.
    Rewards in processes, and `async` rewards, work at the same time; other rewards are called one after the other.

    One of several rewards may return None for a completion to which it does not apply; it is then left out of the sum.

    Args:
        rewards: a reward or several; each is a function, its name, or a mapping (see `entries`).
        weights: one for each reward; empty for weights of 1.
        workers: processes of each reward given by name; None shares the cores of this rank, at most 4, among them.
        timeout: seconds of one call of a reward given by name.

    Attributes:
        names: of the rewards, in their order.
        failures: number of completions on which a reward failed, by kind: timeout, crash, exception, missing.
        thread: the thread that calls the rewards during training.

    Raises:
        ValueError: two rewards have one name, or `weights` has another length or a value that is not finite.
    """

    def __init__(
        self,
        rewards: RewardEntry | Sequence[RewardEntry],
        weights: Sequence[float] = (),
        *,
        workers: int | None = None,
        timeout: float = 60.0,
    ) -> None:
        entries = read_entries(rewards)
        self.weights = read_weights(weights, len(entries))
        self.names = [entry.name for entry in entries]
        self.name = " + ".join(self.names)
        self.failures: Counter[str] = Counter()
        self.thread = BackgroundThread(f"reward {self.name}")
        apart = sum(map(runs_apart, entries))
        each = workers if workers is not None else max(1, default_workers() // max(1, apart))
        self.runners = [
            RewardRunner(entry, workers=each, timeout=timeout, optional=len(entries) > 1) for entry in entries
        ]

    def check(self, row: dict[str, Any]) -> None:
        """Call the rewards once on two empty completions of a row, so that a broken reward is found early.

        Raises:
            ValueError: a reward cannot be loaded, raises, crashes, takes too long, or does not return one finite
                number for each completion.
        """
        columns = {name: [value] * 2 for name, value in row.items()}
        scores = self._joined(
            self._of_each(lambda runner: runner.attempt(["", ""], columns, whole=True)), count=2, all_apply=False
        )
        if scores.failures:
            first = scores.failures[0]
            raise ValueError(f"reward {first.reward} fails on an empty completion ({first.kind}): {first.message}")

    def score(self, completions: list[str], columns: Columns) -> Scores:
        """One finite number for each completion. Failures score 0, are counted, and are logged in one line a reward.

        Raises:
            RewardError: (a ValueError) a reward did not return one finite number for each completion.
        """
        scores = self.attempt(completions, columns)
        self.record(scores)
        return scores

    def attempt(self, completions: list[str], columns: Columns) -> Scores:
        """As `score`, but failures are neither counted nor logged."""
        return self._joined(self._of_each(lambda runner: runner.attempt(completions, columns)), count=len(completions))

    def attempt_in_thread(self, completions: list[str], columns: Columns) -> list[Scores | None]:
        """The scores of each reward, for `finish`, which the main thread calls."""
        return self._of_each(lambda runner: runner.attempt_in_thread(completions, columns))

    def finish(self, attempts: Sequence[Scores | None], completions: list[str], columns: Columns) -> Scores:
        """As `attempt`, after `attempt_in_thread`: the rewards that raised there are called again in this thread."""
        scores = [
            runner.attempt(completions, columns) if attempt is None else attempt
            for runner, attempt in zip(self.runners, attempts, strict=True)
        ]
        return self._joined(scores, count=len(completions))

    def record(self, scores: Scores) -> None:
        """Count the failures of a batch, and log them in one line for each reward that failed."""
        self.failures.update(failure.kind for failure in scores.failures)
        for name, count in Counter(failure.reward for failure in scores.failures).items():
            first = next(failure for failure in scores.failures if failure.reward == name)
            log.warning(
                "reward %s failed on %d of %d completions, which score 0; the first failure (%s): %s",
                *(name, count, len(scores.values), first.kind, first.message),
            )

    def close(self) -> None:
        """End the worker processes, if there are any."""
        for runner in self.runners:
            runner.close()

    def _of_each(self, call: Callable[[RewardRunner], Any]) -> list[Any]:
        """The values of `call` for all rewards. Those that wait for others wait at the same time."""
        waiting = [runner for runner in self.runners if runner.waits]
        if len(self.runners) == 1 or not waiting:
            return [call(runner) for runner in self.runners]
        futures = {runner.name: runner.thread.submit(partial(call, runner)) for runner in waiting}
        try:
            here = {runner.name: call(runner) for runner in self.runners if not runner.waits}
        finally:
            wait(futures.values())
        return [here[name] if name in here else futures[name].result() for name in self.names]

    def _joined(self, of_each: Sequence[Scores], *, count: int, all_apply: bool = True) -> Scores:
        """The weighted sums; with `all_apply`, a completion to which no reward applies is a failure."""
        failures = [
            failure._replace(reward=name)
            for name, scores in zip(self.names, of_each, strict=True)
            for failure in scores.failures
        ]
        values = []
        for row in range(count):
            applying = [
                weight * scores.values[row]
                for weight, scores in zip(self.weights, of_each, strict=True)
                if not math.isnan(scores.values[row])
            ]
            if not applying and all_apply:
                failures.append(Failure(row, "missing", "no reward applies to this completion", self.name))
            values.append(sum(applying, 0.0))
            if not math.isfinite(values[-1]):
                raise RewardError(f"the weighted sum of the rewards {self.name} is not finite: {applying}")
        parts = {name: scores.values for name, scores in zip(self.names, of_each, strict=True)}
        return Scores(values, sorted(failures), parts if len(parts) > 1 else {})
