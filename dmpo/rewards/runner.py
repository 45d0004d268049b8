"""One reward: in worker processes, or in this process."""

from __future__ import annotations

from functools import partial

from ..storage.background import BackgroundThread
from .call import call_here, calls_singly, load_reward, score_all
from .entries import NamedReward
from .errors import RewardError
from .form import form_of, with_options
from .outcomes import Columns, Scores
from .worker_pool import WorkerPool

# These take bounded time, and less of it than a message to another process. `math` has workers of its own.
_RUN_HERE = frozenset(
    f"dmpo.rewards:{name}"
    for name in ("gsm8k", "math", "countdown", "sudoku", "format", "length", "exact_answer", "repetition")
)


def runs_apart(entry: NamedReward) -> bool:
    """Whether a reward runs in worker processes: it is given by name, and is not of `dmpo.rewards`."""
    return isinstance(entry.function, str) and entry.function not in _RUN_HERE


class RewardRunner:
    """Calls one reward of a `RewardPool`; its failures are returned, neither counted nor logged.

    Args:
        entry: the reward.
        workers: processes of a reward that runs in processes.
        timeout: seconds of one call there.
        optional: the reward may return None for a completion.

    Attributes:
        waits: a call waits for processes or for an event loop, so that other rewards may be called meanwhile.
        thread: where the pool calls a reward that waits, if there are several rewards.
    """

    def __init__(self, entry: NamedReward, *, workers: int, timeout: float, optional: bool) -> None:
        self.name, self.waits = entry.name, True
        self.thread = BackgroundThread(f"reward {entry.name}")
        self.workers: WorkerPool | None = None
        if isinstance(entry.function, str) and runs_apart(entry):
            self.workers = WorkerPool(
                entry.function, workers=workers, wall_limit=timeout, options=entry.options, optional=optional
            )
            return
        if isinstance(entry.function, str):
            reward = load_reward(entry.function, entry.options)
        else:
            reward = with_options(entry.function, entry.options)
        self.waits = form_of(reward).is_async
        self.singly = calls_singly(reward)
        self.call = partial(call_here, reward, optional=optional)

    def attempt(self, completions: list[str], columns: Columns, *, whole: bool = False) -> Scores:
        """The scores of these completions. With `whole`, one worker gets all of them.

        Raises:
            RewardError: the reward did not return one finite number for each completion.
        """
        if self.workers:
            return self.workers.score(completions, columns, whole=whole)
        return score_all(self.call, completions, columns, singly=self.singly)

    def attempt_in_thread(self, completions: list[str], columns: Columns) -> Scores | None:
        """As `attempt`, but None if a function in this process raised an exception: `attempt` must be called again in
        the main thread. Some functions work only there, for example those that set an alarm."""
        if self.workers:
            return self.workers.score(completions, columns)
        outcome = self.call(completions, columns)
        if outcome.kind == "wrong":
            raise RewardError(outcome.message)
        return Scores(outcome.values, list(outcome.failures)) if outcome.kind == "values" else None

    def close(self) -> None:
        """End the worker processes, if there are any."""
        if self.workers:
            self.workers.close()
