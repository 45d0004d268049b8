"""Prompts of your own: from a file, from the hub or from an object in Python, without a class to write."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from ..rewards import Reward, load_object, score
from ..rewards.stated_answers import same_answer, stated_answer
from .cells import as_text, shown
from .messages import (
    DEMONSTRATION,
    MESSAGES,
    conversation_text,
    is_conversation,
    read_completion,
    read_messages,
    read_text,
)
from .options import check_integers, check_texts
from .records import Record
from .row_objects import RowObject, read_row_object
from .sources import check_file, read_each, read_rows
from .split_rows import SplitRows
from .splits import Row, exact_key, smallest_keys

_MOST_HELD_OUT = 500  # rows of a split that is held out by share

Source = str | os.PathLike[str] | RowObject


class Prompts(SplitRows):
    """A task of a data set with a column of prompts. The rewards get all columns by their names.

    A prompt is a text, or a list of messages with `role` and `content` that goes through the model's chat template.
    Training rows are left out if their prompt is also held out; case and white space do not matter.

    With `answer`, a completion is solved if it states the right answer: in `<answer>` tags, or else in \\boxed, or else
    as the whole completion; equal but for case and white space, or as a number. With `solved`, your function decides.
    Without either, the task cannot say what is solved: `judges` is False, and evaluations of a run report the mean
    reward.

    Args:
        train, test: hub id (`owner/name` or `owner/name:config`), local file, see `sources.read_rows`, or an object
            with rows, see `row_objects.RowObject`. Without `test`, test rows are held out of `train`. Without `train`,
            the task has only test rows.
        prompt: the column of the prompt. The model sees it, and the rewards get it as `prompt`, a text.
        answer: the column of the right answer, a text or a number. The rewards get it also as `answer`.
        completion: the column of a completion to learn from (`dmpo sft`): a text, or messages whose last one is the
            assistant's, which may be the column of the prompt, too. Without it the right answer is learned.
        solved: `module:function`, called as a reward is; a completion is solved if its value is True or above 0.5.
        validation_rows, test_rows: number of different training prompts that are held out; None for a share.
        held_out_share: this share, of each split; at least one prompt and at most 500.
        revision, test_revision: commit, tag or branch of the hub data sets; None for the newest.
        train_split, test_split: the splits of the hub data sets.

    Raises:
        TypeError: an object is none with rows.
        ValueError: an argument is wrong, or the data or most of its rows cannot be read. If fewer rows cannot be read,
            they are left out, and a warning names them.
    """

    def __init__(
        self,
        *,
        train: Source | None = None,
        test: Source | None = None,
        prompt: str = "prompt",
        answer: str | None = None,
        completion: str | None = None,
        solved: str | None = None,
        validation_rows: int | None = None,
        test_rows: int | None = None,
        held_out_share: float = 0.1,
        revision: str | None = None,
        test_revision: str | None = None,
        train_split: str = "train",
        test_split: str = "test",
    ) -> None:
        check_integers(1, validation_rows=validation_rows, test_rows=test_rows)
        check_texts(
            prompt=prompt,
            answer=answer,
            completion=completion,
            solved=solved,
            revision=revision,
            test_revision=test_revision,
        )
        check_texts(train_split=train_split, test_split=test_split)
        if not isinstance(held_out_share, int | float) or not 0 < held_out_share < 0.5:
            raise ValueError(f"held_out_share must be above 0 and below 0.5, got {held_out_share!r}")
        if train is None and test is None:
            raise ValueError("give train: the file or the hub id of your prompts (or test, for an evaluation alone)")
        if test is not None and test_rows is not None:
            raise ValueError(f"give test or test_rows, not both, got test {source_name(test, 'test')} and {test_rows}")
        if answer is not None and solved is not None:
            raise ValueError(f"give answer or solved, not both, got {answer!r} and {solved!r}")
        self.prompt_column, self.answer_column, self.completion_column = prompt, answer, completion
        self._judge = None if solved is None else load_object(solved, "solved")
        self.judges = answer is not None or solved is not None
        self.set_no_rows()
        if train is not None:
            self.rows["train"] = self._read(train, "train", train_split, revision)
        if test is not None:
            if test_revision is None and test == train:
                test_revision = revision
            self.rows["test"] = self._read(test, "test", test_split, test_revision)
        self._split(train, test, validation_rows, test_rows, held_out_share)

    @classmethod
    def scoring_only(cls) -> Prompts:
        """The task without rows, which scores completions by a column `answer`; no data is loaded."""
        task = cls.__new__(cls)
        task.prompt_column, task.answer_column, task._judge, task.judges = "prompt", "answer", None, True
        task.completion_column = None
        task.set_no_rows()
        return task

    @staticmethod
    def check_options(options: Mapping[str, Any], *, has_reward: bool) -> None:
        """Raise ValueError for options with which no run can train, before any data is read.

        Args:
            options: `task_options` of a run.
            has_reward: whether the config names a reward.
        """
        train = options.get("train")
        if train is None:
            raise ValueError("task_options of prompts need train: the file or the hub id of your prompts")
        for source in (train, options.get("test")):
            if isinstance(source, str):
                check_file(source)
        if not has_reward and options.get("answer") is None and options.get("solved") is None:
            raise ValueError(NO_REWARD)

    @property
    def reward(self) -> Reward:
        """`score_answers`. Raises ValueError for a task that cannot say what is solved: it needs a reward of yours."""
        if not self.judges:
            raise ValueError(NO_REWARD)
        return self.score_answers

    def score_answers(self, completions: list[str], **columns: list[Any]) -> list[float]:
        """1 for each completion that is solved, 0 for the others."""
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return [float(self.solved(text, row)) for text, row in zip(completions, rows, strict=True)]

    def solved(self, completion: str, row: Row) -> bool:
        """Whether the function `solved` says so, or else whether the answer is the right one.

        Raises:
            ValueError: the task has neither, or the row has no answer.
        """
        if self._judge is not None:
            (value,) = score(self._judge, [completion], {name: [value] for name, value in row.items()})
            return value > 0.5
        right = as_text(row.get("answer"))
        if not self.judges or right is None:
            raise ValueError("task prompts cannot say what is solved without an answer; give task_options answer")
        answer = stated_answer(completion)
        return answer is not None and same_answer(answer, right)

    def parse(self, completion: str, row: Row) -> str | None:
        """The answer in a completion; None if it is empty."""
        return stated_answer(completion)

    def demonstrate(self, row: Row) -> str:
        """The completion to learn from, or else the right answer. Raises ValueError for a task without either."""
        if self.completion_column is not None:
            return str(row[DEMONSTRATION])
        right = as_text(row.get("answer")) if self.answer_column is not None else None
        if right is None:
            raise ValueError("shots must be 0 for task prompts without task_options answer: there is nothing to show")
        return right

    def show(self, completion: str, row: Row) -> str:
        """The prompt, the end of the completion, and, if the task judges, its answer: green if right, red if wrong."""
        ending = completion if len(completion) <= 400 else "… " + completion[-400:]
        lines = [escape(row["prompt"][:400]), "", escape(ending)]
        if self.judges:
            colour = "bold green" if self.solved(completion, row) else "bold red"
            right = f", right is {escape(str(row['answer']))}" if self.answer_column is not None else ""
            lines.append(f"[{colour}]{escape(str(stated_answer(completion)))}[/]{right}")
        return "\n".join(lines)

    def reason_of_no_rows(self, split: str) -> str:
        """Why a split has no rows, as the end of a message."""
        if self.rows["test"]:
            return ": it was made with test alone; give train"
        return super().reason_of_no_rows(split)

    def _split(
        self,
        train: Source | None,
        test: Source | None,
        validation_rows: int | None,
        test_rows: int | None,
        share: float,
    ) -> None:
        """Decide which rows belong to which split."""
        keys = {split: [_key(row) for row in self.rows[split]] for split in ("train", "test")}
        if train is None:
            self.indices["test"] = list(range(len(keys["test"])))
            return
        different, least = len(set(keys["train"])), 2 if test is not None else 3
        name, by_share = source_name(train, "train"), max(1, min(_MOST_HELD_OUT, round(share * different)))
        if different < least:
            use = "validation" if test is not None else "validation and test"
            raise ValueError(
                f"data set {name} has {different} different prompts, and needs at least {least}, because one each is "
                f"held out for {use}"
            )
        if test is None:
            held_out = smallest_keys(keys["train"], test_rows or by_share, "test")
            tested = [index for index, key in enumerate(keys["train"]) if key in held_out]
            others = [index for index, key in enumerate(keys["train"]) if key not in held_out]
            rows, of_train = self.rows["train"], keys["train"]
            self.rows["test"], keys["test"] = [rows[i] for i in tested], [of_train[i] for i in tested]
            self.rows["train"], keys["train"] = [rows[i] for i in others], [of_train[i] for i in others]
        sources = (name, name if test is None else source_name(test, "test"))
        self.hold_out(keys["train"], keys["test"], validation_rows or by_share, sources=sources)

    def _read(self, source: Source, what: str, split: str, revision: str | None) -> list[Row]:
        """The rows of a file, of a hub data set or of an object."""
        name = source_name(source, what)
        if isinstance(source, str | os.PathLike):
            records = read_rows(os.fspath(source), split, {}, revision=revision)
        else:
            if revision is not None:
                raise ValueError(f"revision {revision!r} needs a hub data set, but {name} is an object")
            records = read_row_object(source, name)
        self._check_columns(list(records[0]), f"data set {name}")
        if self.completion_column is not None:
            records = [self._with_demonstration(record, number, name) for number, record in enumerate(records)]
        as_messages = any(is_conversation(record[self.prompt_column]) for record in records)
        return read_each(records, f"data set {name}", lambda record: self._row(record, as_messages))

    def _check_columns(self, columns: list[str], name: str) -> None:
        """Raise ValueError if a column that is asked for is missing, or if one would be hidden."""
        named = {"prompt": self.prompt_column, "answer": self.answer_column, "completion": self.completion_column}
        for option, column in named.items():
            if column is not None and column not in columns:
                raise ValueError(
                    f"{name} has no column {column!r}; its columns are {', '.join(map(repr, columns))}; "
                    f"name yours in task_options: {option}: COLUMN"
                )
            if option != "completion" and column not in (None, option) and option in columns:
                raise ValueError(
                    f"{name} has a column {option!r} beside {column!r}, which task_options name as its {option}: "
                    "the rewards get that one by this name; rename or remove the other"
                )
        for column in ("completion", "completions", MESSAGES, DEMONSTRATION):
            if column in columns and column != self.completion_column:
                hint = ", or name it in task_options if it has the answers that dmpo sft learns: completion: completion"
                raise ValueError(
                    f"{name} has a column {column!r}, a name under which the rewards get something else; rename it"
                    + (hint if column == "completion" else "")
                )

    def _with_demonstration(self, record: Record, number: int, name: str) -> Record:
        """The record with its completion as a text under `DEMONSTRATION`, and the prompt without it."""
        assert self.completion_column is not None
        try:
            turns, text = read_completion(record[self.completion_column])
        except ValueError as error:
            raise ValueError(f"data set {name}, row {number}: column {self.completion_column}: {error}") from None
        shared = self.completion_column == self.prompt_column
        kept = {column: cell for column, cell in record.items() if column != self.completion_column}
        return kept | ({self.prompt_column: turns} if shared else {}) | {DEMONSTRATION: text}

    def _row(self, record: Record, as_messages: bool) -> Row:
        value = record[self.prompt_column]
        columns = {name: cell for name, cell in record.items() if name != "prompt"}
        if self.answer_column is not None:
            columns["answer"] = right = record[self.answer_column]
            if as_text(right) is None:
                raise ValueError(f"column {self.answer_column} must have a text or a number, got {shown(right)}")
        if not as_messages:
            return {"prompt": read_text(value), **columns}
        messages = read_messages(value)
        return {"prompt": conversation_text(messages), MESSAGES: messages, **columns}


NO_REWARD = (
    "task prompts has no reward of its own without a right answer: give reward: module:function, or "
    "task_options: {answer: COLUMN}"
)


def source_name(source: Source, what: str) -> str:
    """A file, a hub id or an object, for messages."""
    return str(source) if isinstance(source, str | os.PathLike) else f"{what}_dataset".replace("test_", "eval_")


def _key(row: Row) -> str:
    """The key that decides the split of a row."""
    return exact_key(row["prompt"])
