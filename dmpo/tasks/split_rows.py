"""Rows of data sets by split: finite, held out by key, repeated after the last one."""

from __future__ import annotations

import logging

from .options import check_integers
from .splits import SPLITS, Row, check_split, hold_out

log = logging.getLogger("dmpo")


class SplitRows:
    """The part of a task that gives its rows. A task of data sets inherits it.

    rows: the rows of each split, as they were read. indices: for each split, which of them belong to it.
    """

    rows: dict[str, list[Row]]
    indices: dict[str, list[int]]

    def hold_out(self, train: list[str], test: list[str], validation_rows: int, *, sources: tuple[str, str]) -> None:
        """Set `indices`, and make `rows["validation"]` the training rows; see `splits.hold_out`.

        Training rows that are also in the test set are left out, and a warning counts them.

        Args:
            train, test: the keys of the rows.
            sources: the names of the training set and of the test set, for messages.

        Raises:
            ValueError: no row is left for training.
        """
        self.rows["validation"] = self.rows["train"]
        self.indices = hold_out(train, test, validation_rows, f"data set {sources[0]}")
        if dropped := len(train) - len(self.indices["train"]) - len(self.indices["validation"]):
            log.warning("%d training rows of %s are also in the test set %s and are left out", dropped, *sources)

    def set_no_rows(self) -> None:
        """Make every split empty."""
        self.rows = {split: [] for split in SPLITS}
        self.indices = {split: [] for split in SPLITS}

    def row(self, split: str, index: int) -> Row:
        """Row `index` of a split. The rows repeat after the last one.

        Raises:
            ValueError: an unknown split, a negative index, or a split without rows.
        """
        check_split(split)
        check_integers(0, index=index)
        indices = self.indices[split]
        if not indices:
            raise ValueError(f"task has no rows of {split}{self.reason_of_no_rows(split)}")
        return dict(self.rows[split][indices[index % len(indices)]])

    def reason_of_no_rows(self, split: str) -> str:
        """Why a split has no rows, as the end of a message."""
        return ": it was made to score completions alone; use load_task"

    def size(self, split: str) -> int:
        """The number of rows of a split."""
        check_split(split)
        return len(self.indices[split])
