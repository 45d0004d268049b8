"""What GSM8K and MATH share: questions with answers, a test set of its own, a validation split held out of training."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, ClassVar

from rich.markup import escape

from .options import check_integers, check_texts
from .sources import read_each, read_rows
from .splits import SPLITS, Row, check_split, hold_out, text_key
from .templates import choose_template, fill, worked

log = logging.getLogger("dmpo")


class Questions:
    """A task of questions with answers, from two data sets.

    Training rows whose question is also in the test set, save for case, spaces and punctuation, are dropped.

    Args:
        train, test: hub id (`owner/name` or `owner/name:config`) or local file, see `sources.read_rows`. Of a hub id
            the splits `train` and `test` are read.
        revision, test_revision: commit, tag or branch of the hub data sets; None for the newest.
        validation_rows: questions held out of training, never of the test set.
        longest: characters of a question in training; longer ones are left out there, never in the test set.
        template, template_file: in place of the task's own prompt; `{question}` is replaced.

    Raises:
        ValueError: data that cannot be read, or most of whose rows cannot, or a template without its field. Where fewer
            rows cannot be read, they are left out, and a warning names them.
    """

    TRAIN: ClassVar[str]
    TEST: ClassVar[str]
    QUESTION: ClassVar[str]  # the column of the question
    ANSWERS: ClassVar[tuple[str, ...]]  # the columns that the right answer is read from
    WANTED: ClassVar[str]  # what a right answer looks like, for messages
    TEMPLATE: ClassVar[str]

    def __init__(
        self,
        *,
        train: str | None = None,
        test: str | None = None,
        revision: str | None = None,
        test_revision: str | None = None,
        validation_rows: int = 500,
        longest: int | None = None,
        template: str | None = None,
        template_file: str | None = None,
    ) -> None:
        if validation_rows is None:
            raise ValueError("validation_rows must be ≥ 1, an integer, got None")
        check_integers(1, validation_rows=validation_rows, longest=longest)
        check_texts(train=train, test=test, revision=revision, test_revision=test_revision)
        self.template = choose_template(template, template_file, self.TEMPLATE, ("question",))
        train, test = train or self.TRAIN, test or self.TEST
        if test == train and test_revision is None:
            test_revision = revision
        self.rows = {"train": self._rows(train, "train", revision), "test": self._rows(test, "test", test_revision)}
        if longest is not None:
            self.rows["train"] = [row for row in self.rows["train"] if len(row["question"]) <= longest]
        keys = {name: [text_key(row["question"]) for row in rows] for name, rows in self.rows.items()}
        self.rows["validation"] = self.rows["train"]
        self.places = hold_out(keys["train"], keys["test"], validation_rows, f"task data {train}")
        if dropped := len(keys["train"]) - len(self.places["train"]) - len(self.places["validation"]):
            log.warning("%d training rows of %s are also in the test set %s and are left out", dropped, train, test)

    @classmethod
    def scoring_only(cls) -> Questions:
        """The task with no rows in any split: it parses and scores completions, and no data is loaded."""
        task = cls.__new__(cls)
        task.template = cls.TEMPLATE
        task.rows = {split: [] for split in SPLITS}
        task.places = {split: [] for split in SPLITS}
        return task

    def answer(self, source: dict[str, Any]) -> str:
        """The right answer of a row of the data set. Raises ValueError where it cannot be read; names the column."""
        raise NotImplementedError

    def steps(self, source: dict[str, Any]) -> str:
        """The worked solution of a row of the data set."""
        raise NotImplementedError

    def demonstrate(self, row: Row) -> str:
        """A perfect completion of a row: its worked solution in the form that is asked for."""
        return worked(row["solution"], row["answer"])

    def row(self, split: str, index: int) -> Row:
        """Row `index` of a split, counted around its end: `prompt`, `question`, `answer`, `solution`."""
        check_split(split)
        check_integers(0, index=index)
        places = self.places[split]
        if not places:
            raise ValueError(f"task has no rows of {split}: it was made to score completions alone; use load_task")
        return dict(self.rows[split][places[index % len(places)]])

    def size(self, split: str) -> int:
        """Number of rows of a split."""
        check_split(split)
        return len(self.places[split])

    def show(self, completion: str, row: Row) -> str:
        """The question, the end of the completion, and the answer as read in green or red."""
        answer = self.parse(completion, row)
        colour = "bold green" if self.solved(completion, row) else "bold red"
        ending = completion if len(completion) <= 400 else "… " + completion[-400:]
        verdict = f"[{colour}]{escape(str(answer))}[/], right is {escape(str(row['answer']))}"
        return f"{escape(row['question'][:400])}\n\n{escape(ending)}\n{verdict}"

    def solved(self, completion: str, row: Row) -> bool:
        """Whether the answer of a completion is right."""
        raise NotImplementedError

    def parse(self, completion: str, row: Row) -> str | None:
        """The answer as read."""
        raise NotImplementedError

    def _rows(self, source: str, split: str, revision: str | None) -> list[Row]:
        columns: Mapping[tuple[str, ...], str] = {(self.QUESTION,): "the question, a text", self.ANSWERS: self.WANTED}
        return read_each(read_rows(source, split, columns, revision=revision), f"data set {source}", self._row)

    def _row(self, source: dict[str, Any]) -> Row:
        question = source[self.QUESTION]
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"column {self.QUESTION}: must be a text, got {shown(question)}")
        answer = self.answer(source)
        prompt = fill(self.template, {"question": question})
        return {"prompt": prompt, "question": question, "answer": answer, "solution": self.steps(source)}


def as_text(value: Any) -> str | None:
    """A right answer as a text: a text without white space around it, a number in digits; None for anything else."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return str(int(value) if value == int(value) else value)


def shown(value: Any) -> str:
    """A value for a message, in at most 80 characters; of a text the end, where the answer is."""
    if value is None:
        return "null"
    return repr(value[-80:]) if isinstance(value, str) else f"{value!r:.80}"
