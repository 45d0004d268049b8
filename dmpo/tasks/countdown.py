"""Countdown: reach a target from given numbers with + − × ÷, each number once. Puzzles are made here or read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from random import Random
from typing import Any

from rich.markup import escape

from ..rewards import countdown
from ..rewards.countdown_reward import countdown_answer, countdown_solved
from .countdown_expressions import SIGNS, apply_sign, find_expression
from .options import check_integers, check_texts
from .sources import read_each, read_rows
from .splits import SPLITS, Row, check_split, hashed_split
from .templates import choose_template, fill, worked_example

_TRIES = 100_000  # the most draws for one puzzle; a usual puzzle of eight numbers up to 99 takes 4,000


class Countdown:
    """A row has `numbers` (list of int) and `target` (int); the completion is an expression.

    Splits share no multiset of numbers: the hash of a multiset decides its split, for made and for read puzzles. If
    `test` is given, all its rows are the test split, and rows with the same numbers are in no other split.

    Args:
        counts: the numbers of numbers that a puzzle may have.
        largest: the largest number of a made puzzle.
        largest_target: the largest target of a made puzzle; None for `largest`.
        signs: the signs of made puzzles, out of `+-*/`. An answer may use any sign.
        held_out: of so many multisets, one is for the test split and one for validation.
        train: hub id or local file with columns `nums` and `target`, as Jiayi-Pan/Countdown-Tasks-3to4; None to make
            puzzles. A made puzzle has a solution by construction.
        test: hub id or local file of a separate test set; None to hold out a test split by hash.
        revision, test_revision: commit, tag or branch of the hub data sets.
        template, template_file: a prompt that replaces the task's own; `{numbers}` and `{target}` are replaced.
    """

    TEMPLATE = (
        "Make an expression that equals {target} from the numbers {numbers}. Use each of these numbers exactly once, "
        "the signs + - * / and parentheses, nothing else. Think step by step, then give the expression alone. Write "
        "exactly in this form:\n"
        "<reasoning>\nyour steps\n</reasoning>\n<answer>\nthe expression\n</answer>"
    )

    def __init__(
        self,
        *,
        counts: Sequence[int] = (3, 4),
        largest: int = 99,
        largest_target: int | None = None,
        signs: str = SIGNS,
        held_out: int = 20,
        train: str | None = None,
        test: str | None = None,
        revision: str | None = None,
        test_revision: str | None = None,
        template: str | None = None,
        template_file: str | None = None,
    ) -> None:
        listed = isinstance(counts, Sequence) and len(counts) > 0
        if not listed or not all(type(count) is int and 2 <= count <= 8 for count in counts):
            raise ValueError(f"counts must be a list of integers from 2 to 8, got {counts!r}")
        for name, least, value in (("largest", 2, largest), ("held_out", 3, held_out)):
            if value is None:
                raise ValueError(f"{name} must be an integer ≥ {least}, got None")
            check_integers(least, **{name: value})
        check_integers(1, largest_target=largest_target)
        if not isinstance(signs, str) or not signs or len(set(signs) & set(SIGNS)) != len(signs):
            raise ValueError(f"signs must be some of {SIGNS}, each once, got {signs!r}")
        check_texts(train=train, test=test, revision=revision, test_revision=test_revision)
        if test is not None and train is None:
            raise ValueError(
                "got test without train, but the test split of made puzzles is made, too; give train, or leave test out"
            )
        self.counts, self.largest = tuple(counts), largest
        self.largest_target = largest if largest_target is None else largest_target
        self.signs, self.held_out = signs, held_out
        self.template = choose_template(template, template_file, self.TEMPLATE, ("numbers", "target"))
        self.rows: dict[str, list[tuple[list[int], int]]] | None = None
        if train is not None:
            test_rows = None if test is None else self._read(test, "test", test_revision)
            self.rows = _divide(self._read(train, "train", revision), test_rows, held_out)
            for split in SPLITS:
                if not self.rows[split]:
                    raise ValueError(
                        f"data set {train} leaves no row with {self._counts()} numbers for {split}: of held_out = "
                        f"{held_out} multisets of numbers one is for test and one for validation; give more rows, or a "
                        "smaller held_out"
                    )

    def row(self, split: str, index: int) -> Row:
        """Row `index` of a split. The rows of a data set repeat after the last one.

        A made row depends only on (split, index) and the options.

        Raises:
            ValueError: the split is unknown, the index is < 0, or these options give the split no puzzle.
        """
        check_split(split)
        check_integers(0, index=index)
        if self.rows is not None:
            numbers, target = self.rows[split][index % len(self.rows[split])]
        else:
            numbers, target = self._draw(split, index)
        texts = {"numbers": ", ".join(map(str, numbers)), "target": str(target)}
        return {"prompt": fill(self.template, texts), "numbers": list(numbers), "target": target}

    def size(self, split: str) -> int | None:
        """The number of rows of a split of a data set; None if puzzles are made."""
        check_split(split)
        return None if self.rows is None else len(self.rows[split])

    def reward(self, completions: list[str], **columns: list[Any]) -> list[float]:
        """See `dmpo.rewards.countdown`."""
        return countdown(completions, **columns)

    def solved(self, completion: str, row: Row) -> bool:
        """Whether the expression equals the target and uses each number once."""
        return countdown_solved(completion, row["numbers"], row["target"])

    def parse(self, completion: str, row: Row) -> str | None:
        """The text of the expression; None if the completion has none."""
        return countdown_answer(completion)

    def show(self, completion: str, row: Row) -> str:
        """The puzzle and the expression, green if right and red if wrong."""
        colour = "bold green" if self.solved(completion, row) else "bold red"
        answer = countdown_answer(completion)
        shown = repr(completion[-80:]) if answer is None else answer
        return f"{row['target']} of {', '.join(map(str, row['numbers']))}: [{colour}]{escape(shown)}[/]"

    def demonstrate(self, row: Row) -> str:
        """A perfect completion of a row, in tags if the prompt asks for tags.

        Raises:
            ValueError: the numbers of the row cannot make the target.
        """
        expression = find_expression(row["numbers"], row["target"])
        if expression is None:
            raise ValueError(f"the numbers {row['numbers']} cannot make {row['target']}; give a row with a solution")
        if "<answer>" not in self.template:
            return expression
        return worked_example(f"{expression} = {row['target']}", expression)

    def _draw(self, split: str, index: int) -> tuple[list[int], int]:
        """A solvable puzzle: the numbers are combined two by two at random, and the last value is the target."""
        random = Random(f"countdown/{split}/{index}")
        for _ in range(_TRIES):
            numbers = [random.randint(1, self.largest) for _ in range(random.choice(self.counts))]
            if hashed_split(_key(numbers), held_out=self.held_out) != split:
                continue
            values = [Fraction(number) for number in numbers]
            while len(values) > 1:
                left = values.pop(random.randrange(len(values)))
                right = values.pop(random.randrange(len(values)))
                usable = [
                    sign for sign in self.signs if right or sign != "/"
                ]  # never empty: with / alone no value is 0
                values.append(apply_sign(left, random.choice(usable), right))
            (value,) = values
            if value.denominator == 1 and 1 <= value <= self.largest_target and value not in numbers:
                return numbers, int(value)
        raise ValueError(
            f"counts {list(self.counts)}, largest {self.largest}, largest_target {self.largest_target} and signs "
            f"{self.signs} leave no puzzle for {split} in {_TRIES:,} draws; give a larger largest or largest_target"
        )

    def _read(self, source: str, split: str, revision: str | None) -> list[tuple[list[int], int]]:
        integers = "a list of integers, such as [1, 2, 3]"
        columns: Mapping[tuple[str, ...], str] = {("nums",): integers, ("target",): "an integer"}
        rows = read_rows(source, split, columns, revision=revision)
        puzzles = read_each(rows, f"data set {source}", _puzzle)
        return [(numbers, target) for numbers, target in puzzles if len(numbers) in self.counts]

    def _counts(self) -> str:
        return " or ".join(map(str, self.counts))


def _puzzle(row: Row) -> tuple[list[int], int]:
    numbers, target = row["nums"], row["target"]
    if isinstance(numbers, str):  # a csv file has no lists
        numbers = numbers.strip("[] ").replace(",", " ").split()
    try:
        return [_integer(number) for number in numbers], _integer(target)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"columns nums and target must be integers, got {numbers!r:.80} and {target!r:.80}") from None


def _integer(value: Any) -> int:
    if int(value) != float(value):
        raise ValueError(f"must be an integer, got {value!r}")
    return int(value)


def _key(numbers: list[int]) -> str:
    return " ".join(map(str, sorted(numbers)))


def _divide(
    rows: list[tuple[list[int], int]], test_rows: list[tuple[list[int], int]] | None, held_out: int
) -> dict[str, list[tuple[list[int], int]]]:
    """The rows of each split. With a separate test set, rows that the hash sends to test are for training, and rows
    with the numbers of a test row are dropped.
    """
    divided: dict[str, list[tuple[list[int], int]]] = {split: [] for split in SPLITS}
    test_keys = {_key(numbers) for numbers, _ in test_rows or []}
    for row in rows:
        key = _key(row[0])
        split = hashed_split(key, held_out=held_out)
        if test_rows is not None:
            if key in test_keys:
                continue
            split = "train" if split == "test" else split
        divided[split].append(row)
    if test_rows is not None:
        divided["test"] = test_rows
    return divided
