"""Rewards of a round while its other completions are still being decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from types import TracebackType

from .outcomes import Columns, Scores
from .pool import RewardPool


class RoundScoring:
    """Scores the completions of a round as they come, in the thread of the reward pool.

    Rows come in any order. A call of the reward gets whole groups: a group waits until all of its rows have come. The
    order of the calls follows from the order of the rows alone. If the context ends with an error, the calls that have
    not begun are left out.

    Args:
        groups: the group of each row.
        columns: the values of each row.
    """

    def __init__(self, pool: RewardPool, groups: Sequence[Hashable], columns: Columns) -> None:
        self.pool, self.groups, self.columns = pool, groups, columns
        self._calls: list[Future[tuple[list[int], list[str], list[Scores | None]]]] = []
        self._left_out = False
        # The thread alone uses these two:
        self._missing = Counter(groups)  # rows of each group that have not come
        self._texts: dict[int, str] = {}  # of rows whose group is not whole

    def __enter__(self) -> RoundScoring:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._left_out = kind is not None

    def add(self, rows: Sequence[int], read: Callable[[], list[str]]) -> None:
        """Score these rows soon; returns at once. `read` gives their texts, and is called in the thread."""
        self._calls.append(self.pool.thread.submit(lambda: self._score(rows, read)))

    def scores(self) -> Scores:
        """Wait for the scores of all rows, in the order of `groups`. Failures are counted and logged.

        Raises:
            RewardError: (a ValueError) a call did not return one finite number for each completion.
        """
        rows: list[int] = []
        joined = Scores([])
        # The thread is done before a call is repeated here: no two calls of a reward run at once.
        for called, texts, attempts in [call.result() for call in self._calls]:
            if called:
                joined = joined.extended(self.pool.finish(attempts, texts, self._columns_of(called)))
                rows += called
        scores = joined.reordered(rows)
        self.pool.record(scores)
        return scores

    def _score(
        self, rows: Sequence[int], read: Callable[[], list[str]]
    ) -> tuple[list[int], list[str], list[Scores | None]]:
        if self._left_out:
            return [], [], []
        try:
            self._texts.update(zip(rows, read(), strict=True))
            self._missing.subtract(self.groups[row] for row in rows)
            ready = [row for row in self._texts if not self._missing[self.groups[row]]]
            texts = [self._texts.pop(row) for row in ready]
            return ready, texts, self.pool.attempt_in_thread(texts, self._columns_of(ready)) if ready else []
        except BaseException:
            self._left_out = True  # the round fails, so the later calls are of no use
            raise

    def _columns_of(self, rows: Sequence[int]) -> Columns:
        return {name: [column[row] for row in rows] for name, column in self.columns.items()}
