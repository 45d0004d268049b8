"""If these fail, answers in words are equal where they should not be, or not where they should."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmpo.rewards.stated_answers import same_answer, stated_answer


@pytest.mark.parametrize(
    ("answer", "right", "same"),
    [
        ("Paris", " paris ", True),
        ("New  York", "new\nyork", True),
        ("8,400", "8400.00", True),
        ("-3", "−3", True),
        (".5", "0.5", True),
        ("0012", "12", False),
        ("12", "12 apples", False),
        ("1,2", "12", False),
        ("", "0", False),
        ("-", "0", False),
        (".", "0", False),
        ("٣", "3", False),
        ("²", "2", False),
        ("9" * 200, "9" * 200 + ".0", False),
    ],
)
def test_same_answers(answer: str, right: str, same: bool) -> None:
    assert same_answer(answer, right) == same == same_answer(right, answer)


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_can_be_compared(completion: str, right: str) -> None:
    answer = stated_answer(completion)
    assert answer is None or same_answer(answer, answer)
    assert same_answer(completion, right) == same_answer(right, completion)
