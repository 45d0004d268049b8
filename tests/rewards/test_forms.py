"""If these fail, a reward gets other arguments than it names, or its values are refused or changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmpo.rewards import RewardError, RewardPool, score
from dmpo.rewards.form import with_options
from dmpo.rewards.values import read_values

TEXTS = ["a", "bb"]
COLUMNS: dict[str, list[Any]] = {"prompt": ["p", "q"], "answer": [7, 8], "completion": ["of the data", "set"]}
SEEN: list[Any] = []


def note(*seen: Any) -> list[float]:
    SEEN[:] = seen
    return [0.0] * len(TEXTS)


class Scorer:
    def __call__(self, completions: list[str], answer: list[int]) -> list[float]:
        return note(completions, answer)

    def method(self, texts: list[str], **columns: list[Any]) -> list[float]:
        return note(texts, columns)


def trl(prompts: list[str], completions: list[str], **kwargs: Any) -> list[float]:
    return note(prompts, completions, kwargs)


def with_default(completions: list[str], answer: Any = None, other: Any = None) -> list[float]:
    return note(completions, answer, other)


@pytest.mark.parametrize(
    ("reward", "seen"),
    [
        (lambda completions: note(completions), [TEXTS]),
        (lambda texts, answer: note(texts, answer), [TEXTS, [7, 8]]),
        (lambda texts, **columns: note(texts, columns), [TEXTS, COLUMNS]),
        (lambda texts, /, *, prompt: note(texts, prompt), [TEXTS, ["p", "q"]]),
        (lambda *, completions, answer: note(completions, answer), [TEXTS, [7, 8]]),
        (lambda answer, completions: note(answer, completions), [[7, 8], TEXTS]),
        (lambda *texts, **columns: note(texts, columns), [(TEXTS,), COLUMNS]),
        (lambda **columns: note(columns), [COLUMNS | {"completions": TEXTS}]),
        (lambda completions, completion: note(completions, completion), [TEXTS, ["of the data", "set"]]),
        (trl, [["p", "q"], TEXTS, COLUMNS]),
        (with_default, [TEXTS, [7, 8], None]),
        (partial(with_default, answer="given"), [TEXTS, "given", None]),
        (Scorer(), [TEXTS, [7, 8]]),
        (Scorer().method, [TEXTS, COLUMNS]),
    ],
)
def test_a_reward_gets_what_it_names(reward: Callable[..., Any], seen: list[Any]) -> None:
    score(reward, TEXTS, COLUMNS)
    assert seen == SEEN


def test_a_reward_of_one_completion_gets_values_and_no_lists() -> None:
    calls = []

    def single(completion: str, answer: int, **others: Any) -> bool:
        calls.append((completion, answer, others))
        return completion == "bb"

    assert score(single, TEXTS, COLUMNS) == [0.0, 1.0]
    assert calls == [("a", 7, {"prompt": "p"}), ("bb", 8, {"prompt": "q"})]


def test_a_column_that_is_missing_is_named_before_any_work() -> None:
    def mine(completions: list[str], completion_ids: list[Any]) -> list[float]:
        return [0.0]

    message = "reward mine takes completion_ids, which the rows do not have; their columns are prompt"
    with pytest.raises(RewardError, match=message):
        RewardPool(mine).check({"prompt": "p"})
    for reward in (lambda: [0.0], lambda prompts, texts: [0.0], lambda *, answer: [0.0]):
        with pytest.raises(RewardError, match="reward <lambda> must have a parameter named completions"):
            score(reward, TEXTS, COLUMNS)


def test_options_are_parameters_that_the_reward_names() -> None:
    def scaled(completions: list[str], *, scale: float = 1.0, **columns: Any) -> list[float]:
        return [scale * len(text) for text in completions]

    assert score(with_options(scaled, {"scale": 3}), TEXTS, {"scale": [0, 0]}) == [3.0, 6.0]
    with pytest.raises(ValueError, match="reward scaled has no option 'scal'; its parameters are scale"):
        with_options(scaled, {"scal": 3})


@pytest.mark.parametrize(
    "values",
    [
        [True, False],
        (1, 0),
        numpy.array([1.0, 0.0]),
        numpy.array([True, False]),
        numpy.array([1.0, 0.0], dtype=numpy.float16),
        [numpy.float32(1), numpy.bool_(False)],
        [numpy.array(1), numpy.array([0])],
        torch.tensor([1.0, 0.0], requires_grad=True),
        torch.tensor([1, 0], dtype=torch.bfloat16),
        [torch.tensor(True), torch.tensor([0.0])],
        [Fraction(1), 0.0],
    ],
)
def test_values_of_many_kinds_are_numbers(values: Any) -> None:
    assert read_values("mine", values, TEXTS) == [1.0, 0.0]
    assert all(type(value) is float for value in read_values("mine", values, TEXTS))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (numpy.array([[1.0], [0.0]]), r"finite numbers, got \[1.0\]"),
        (numpy.array(1.0), "a list of numbers, got float"),
        (torch.zeros(3), "3 values for 2 completions"),
        ([torch.zeros(2), 0.0], r"finite numbers, got tensor\(\[0., 0.\]\)"),
        (torch.tensor([1.0, math.inf]), "finite numbers, got inf"),
        ([10**400, 1], "finite numbers, got 1000"),
        ([1j, 1], "finite numbers, got 1j"),
        ([Decimal(1), 1], "finite numbers, got Decimal"),
        ("10", "a list of numbers, got str"),
        ({"a": 1.0, "b": 0.0}, "a list of numbers, got dict"),
        (iter([1.0, 0.0]), "a list of numbers, got list_iterator"),
        ([None, 1.0], "finite numbers, got None .*None leaves a reward out of a sum of several; this one is alone"),
    ],
)
def test_other_values_are_refused(values: Any, message: str) -> None:
    with pytest.raises(RewardError, match=f"reward mine .*{message}") as error:
        read_values("mine", values, TEXTS)
    assert len(str(error.value)) < 400


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_floats_stay_what_they_are(values: list[float]) -> None:
    texts = [""] * len(values)
    assert read_values("mine", values, texts) == values
    assert read_values("mine", torch.tensor(values, dtype=torch.float64), texts) == values
