"""The base class of GSM8K and MATH: questions with answers, a separate test set, and a held-out validation split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from rich.markup import escape

from .cells import shown
from .options import check_integers, check_texts
from .sources import read_each, read_rows
from .split_rows import SplitRows
from .splits import Row, text_key
from .templates import choose_template, fill, worked_example


class Questions(SplitRows):
    """A task of questions with answers, from two data sets.

    Training rows are dropped if their question is also in the test set. Case, spaces and punctuation do not matter.

    Args:
        train, test: hub id (`owner/name` or `owner/name:config`) or local file, see `sources.read_rows`. A hub id gives
            its splits `train` and `test`.
        revision, test_revision: commit, tag or branch of the hub data sets; None for the newest.
        validation_rows: number of training questions that are held out for validation.
        longest: the most characters of a training question; longer ones are left out. The test set is never shortened.
        template, template_file: a prompt that replaces the task's own; `{question}` is replaced.

    Raises:
        ValueError: the data or most of its rows cannot be read, or the template lacks its field. If fewer rows cannot
            be read, they are left out, and a warning names them.
    """

    TRAIN: ClassVar[str]
    TEST: ClassVar[str]
    QUESTION: ClassVar[str]  # the column of the question
    ANSWERS: ClassVar[tuple[str, ...]]  # the columns that may have the right answer
    RIGHT_ANSWER: ClassVar[str]  # a description of a right answer, for messages
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
            raise ValueError("validation_rows must be an integer ≥ 1, got None")
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
        self.hold_out(keys["train"], keys["test"], validation_rows, sources=(train, test))

    @classmethod
    def scoring_only(cls) -> Questions:
        """The task with no rows in any split: it parses and scores completions, and no data is loaded."""
        task = cls.__new__(cls)
        task.template = cls.TEMPLATE
        task.set_no_rows()
        return task

    def answer(self, source: dict[str, Any]) -> str:
        """The right answer of a row of the data set. Raises ValueError naming the column if it cannot be read."""
        raise NotImplementedError

    def steps(self, source: dict[str, Any]) -> str:
        """The worked solution of a row of the data set."""
        raise NotImplementedError

    def demonstrate(self, row: Row) -> str:
        """A perfect completion of a row: its worked solution in the form that the prompt asks for."""
        return worked_example(row["solution"], row["answer"])

    def show(self, completion: str, row: Row) -> str:
        """The question, the end of the completion, and its answer, green if right and red if wrong."""
        answer = self.parse(completion, row)
        colour = "bold green" if self.solved(completion, row) else "bold red"
        ending = completion if len(completion) <= 400 else "… " + completion[-400:]
        verdict = f"[{colour}]{escape(str(answer))}[/], right is {escape(str(row['answer']))}"
        return f"{escape(row['question'][:400])}\n\n{escape(ending)}\n{verdict}"

    def solved(self, completion: str, row: Row) -> bool:
        """Whether the answer of a completion is right."""
        raise NotImplementedError

    def parse(self, completion: str, row: Row) -> str | None:
        """The answer in a completion; None if it has none."""
        raise NotImplementedError

    def _rows(self, source: str, split: str, revision: str | None) -> list[Row]:
        columns: Mapping[tuple[str, ...], str] = {
            (self.QUESTION,): "the question, a text",
            self.ANSWERS: self.RIGHT_ANSWER,
        }
        return read_each(read_rows(source, split, columns, revision=revision), f"data set {source}", self._row)

    def _row(self, source: dict[str, Any]) -> Row:
        question = source[self.QUESTION]
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"column {self.QUESTION} must be a text, got {shown(question)}")
        answer = self.answer(source)
        prompt = fill(self.template, {"question": question})
        return {"prompt": prompt, "question": question, "answer": answer, "solution": self.steps(source)}
