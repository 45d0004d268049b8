"""If these fail, Countdown pays for what is no solution, or a completion is run as code."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmpo.rewards import countdown
from dmpo.rewards.arithmetic import parse_expression
from dmpo.rewards.countdown_reward import countdown_solved, countdown_value

N = [3, 5, 2]
EXPRESSIONS: list[tuple[str, list[int], int, float]] = [
    # solved
    *[("3*5-2", N, 13, 1.0), ("(3+5)*2", N, 16, 1.0), ("3 × 5 + 2", N, 17, 1.0), ("5 − 3 ÷ 2", N, 7, 0.1)],
    *[("(5-3)/2", N, 1, 1.0), ("-3+5*2", N, 7, 1.0), ("-(3-5)*2", N, 4, 1.0), ("--3+5+2", N, 10, 1.0)],
    *[("5/2*3", N, 7, 0.1), ("8/(3-8/3)", [8, 8, 3, 3], 24, 1.0), ("8/(3-8/3)", [8, 3, 8, 3], 24, 1.0)],
    *[("(1/3)*6*1", [1, 3, 6, 1], 2, 1.0), ("1/3+2/3+0", [1, 3, 2, 3, 0], 1, 1.0), ("((((3))))+5+2", N, 10, 1.0)],
    *[("3*5-2 = 13", N, 13, 1.0), (" 3*5-2\n", N, 13, 1.0), ("3·5−2", N, 13, 1.0), ("3∗5-2", N, 13, 1.0)],
    *[(r"3 \times 5 - 2", N, 13, 1.0), (r"\left(3 + 5\right) \cdot 2", N, 16, 1.0), (r"\frac{5-3}{2}", N, 1, 1.0)],
    *[(r"$3*5-2$", N, 13, 1.0), (r"\(3*5-2\)", N, 13, 1.0), (r"\dfrac{5-3}{2}", N, 1, 1.0)],
    *[("7", [7], 7, 1.0), ("75 - 25", [75, 25], 50, 1.0), ("0*5+3", [0, 5, 3], 3, 1.0)],
    # as people write it
    *[("3 x 5 - 2", N, 13, 1.0), ("3x5-2", N, 13, 1.0), ("(3 X (5)) - 2", N, 13, 1.0), ("[(3*5)]-2", N, 13, 1.0)],
    *[("3•5-2", N, 13, 1.0), ("3✕5-2", N, 13, 1.0), ("3 ✖\ufe0f 5 − 2", N, 13, 1.0)],
    *[(r"\left[3*5\right]-2", N, 13, 1.0), ("3＊5－2", N, 13, 1.0), ("（3＋5）／2", N, 4, 1.0)],
    *[("3*5-2.", N, 13, 1.0), ("3*5-2=13.", N, 13, 1.0), ("`3*5-2`", N, 13, 1.0), ("**3*5-2**", N, 13, 1.0)],
    *[("**3*5-2**.", N, 13, 1.0), ("**`3*5-2.`**", N, 13, 1.0), ("$3*5-2$.", N, 13, 1.0), ("$3*5-2.$", N, 13, 1.0)],
    *[("3*5-2 = 15 - 2 = 13", N, 13, 1.0), ("13 = 3*5-2", N, 13, 1.0), ("3*5-2=13=13", N, 13, 1.0)],
    *[("3*5-2 = 15 - 2", N, 13, 1.0), ("15-2 = 13", N, 13, 0.0), ("3+5+2 = 10", N, 13, 0.1), ("3*5-2=15", N, 15, 0.0)],
    *[("3x5x2x", N, 30, 0.0), ("x3*5-2", N, 13, 0.0), ("3 x -5 + 2", N, -13, 1.0), ("(3*5]-2", N, 13, 0.0)],
    *[("*3*5-2", N, 13, 0.0), ("×3*5-2×", N, 13, 0.0), ("3*5-2..", N, 13, 1.0), ("**", N, 13, 0.0), (".", N, 13, 0.0)],
    *[("=" * 299, N, 13, 0.0), ("1/0=1/0", [1, 0], 1, 0.0), ("`" * 299, N, 13, 0.0), ("*" * 300, N, 13, 0.0)],
    # each number once, as given
    *[("3+5", N, 8, 0.0), ("3+5+2+2", N, 12, 0.0), ("3+5+3", N, 11, 0.0), ("35-2", N, 33, 0.0), ("13", N, 13, 0.0)],
    *[("3.5*2", N, 7, 0.0), ("3.0+5+2", N, 10, 0.0), ("03+5+2", N, 10, 0.0), ("3+5+2+0", N, 10, 0.0)],
    *[("3*5-2.0", N, 13, 0.0), ("1+2", [3], 3, 0.0), ("3", [3, 3], 3, 0.0), ("3e0+5+2", N, 10, 0.0)],
    # another value
    *[("3+5+2", N, 13, 0.1), ("5-3-2", N, 13, 0.1), ("3/5*2", N, 1, 0.1)],
    # not this grammar
    *[("97**98**99", [97, 98, 99], 1, 0.0), ("3**5**2", N, 1, 0.0), ("3^5+2", N, 245, 0.0), ("3//2+5", N, 6, 0.0)],
    *[("5%3+2", N, 4, 0.0), ("3 5+2", N, 37, 0.0), ("(3)(5)-2", N, 13, 0.0), ("3*5-", N, 13, 0.0), ("*3+5", N, 8, 0.0)],
    *[
        ("(3*5-2", N, 13, 0.0),
        ("3*5)-2", N, 13, 0.0),
        ("()", N, 0, 0.0),
        ("+3+5+2", N, 10, 0.0),
        ("3!+5+2", N, 13, 0.0),
    ],
    *[("3*5-2=13=12", N, 13, 0.0), ("3*5-2=12", N, 13, 0.0), ("13=3*5-1", N, 13, 0.0), ("3*5-2=", N, 13, 0.0)],
    *[("x=3*5-2", N, 13, 0.0), ("3*5-2 dollars", N, 13, 0.0), ("sqrt(3)*5-2", N, 13, 0.0), ("0x3+5+2", N, 10, 0.0)],
    *[("__import__('os').system('true')", N, 13, 0.0), ("3 if 5 else 2", N, 3, 0.0), ("[3*5-2][0]", N, 13, 0.0)],
    *[("３*5-2", N, 13, 0.0), ("٣*5-2", N, 13, 0.0), ("3*5-2\x00", N, 13, 0.0), ("3\ud800+5+2", N, 10, 0.0)],
    # no value
    *[
        ("1/0", [1, 0], 1, 0.0),
        ("3/(5-5)", [3, 5, 5], 0, 0.0),
        (r"\frac{3}{5-5}", [3, 5, 5], 0, 0.0),
        ("0/0", [0, 0], 0, 0.0),
    ],
    # too long, too deep
    *[("(" * 10_000 + "3" + ")" * 10_000, [3], 3, 0.0), ("-" * 100 + "3", [3], 3, 0.0), ("", N, 13, 0.0)],
    *[("(" * 39 + "3" + ")" * 39, [3], 3, 1.0), ("(" * 41 + "3" + ")" * 41, [3], 3, 0.0)],
]


@pytest.mark.parametrize(("text", "numbers", "target", "score"), EXPRESSIONS)
def test_countdown(text: str, numbers: list[int], target: int, score: float) -> None:
    wrapped = [text, f"<reasoning>\n1+1\n</reasoning>\n<answer>\n{text}\n</answer>", f"<answer>{text}</answer>"]
    assert countdown(wrapped, numbers=[numbers] * 3, target=[target] * 3) == [score] * 3
    assert countdown_solved(text, numbers, target) == (score == 1.0)


def test_where_the_expression_is() -> None:
    cases = {
        r"\boxed{3*5-2}": 1.0,
        r"<answer>\boxed{3*5-2}</answer>": 1.0,
        r"<answer>\boxed{\frac{3*5}{1}}</answer>": 0.0,
        "<answer>3+5+2</answer> or <answer>3*5-2</answer>": 1.0,
        "The expression is 3*5-2": 0.0,
        "<answer>3*5-2": 1.0,
    }
    assert countdown(list(cases), numbers=[N] * len(cases), target=[13] * len(cases)) == list(cases.values())


def test_columns_of_any_number_type() -> None:
    for numbers, target in (
        ([3, 5, 2], 13),
        (["3", "5", "2"], "13"),
        ([3.0, 5.0, 2.0], 13.0),
        ((3, 5, 2), Fraction(13)),
        ("3,5,2", 13),
        ("[3, 5, 2]", " 13 "),
        ("3 5 2", torch.tensor(13)),
        (torch.tensor([3, 5, 2]), 13),
        ([torch.tensor(3), 5, 2], 13),
    ):
        assert countdown(["3*5-2"], numbers=[numbers], target=[target]) == [1.0]
    assert countdown_value("2.5*2", [2.5, 2]) == 5, "a decimal that was given"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("numbers", value) for value in ("", [], None, 3, "three", [[3, 5, 2]], [3, None], ["1/2"])),
        *(("target", value) for value in (None, "", "1,300", "1/0", "many", [13], float("nan"), True)),
    ],
)
def test_columns_that_are_no_puzzle(column: str, value: Any) -> None:
    """They are named before a run spends days on rewards of 0, so also for completions without an answer."""
    columns: dict[str, Any] = {"numbers": [N], "target": [13], column: [value]}
    for text in ("3*5-2", ""):
        with pytest.raises(ValueError, match=f"column {column} must hold"):
            countdown([text], **columns)


def test_columns_of_too_many_digits() -> None:
    with pytest.raises(ValueError, match=r"column numbers must hold .* got list of too many digits"):
        countdown(["7"], numbers=[[10**5000]], target=[7])
    with pytest.raises(ValueError, match=r"column target must hold .* got int of too many digits"):
        countdown(["7"], numbers=[[7]], target=[10**5000])


@st.composite
def trees(draw: st.DrawFn, depth: int = 3) -> tuple[str, Fraction | None, list[int]]:
    """An expression as text, with its value worked out beside it, and its numbers."""
    if depth == 0 or draw(st.booleans()):
        number = draw(st.integers(0, 99))
        return str(number), Fraction(number), [number]
    (a, x, left), (b, y, right) = draw(trees(depth - 1)), draw(trees(depth - 1))
    sign = draw(st.sampled_from("+-*/"))
    if x is None or y is None or (sign == "/" and y == 0):
        value = None
    else:
        value = {"+": lambda: x + y, "-": lambda: x - y, "*": lambda: x * y, "/": lambda: x / y}[sign]()
    return f"({a}){sign}({b})", value, left + right


@settings(max_examples=50)
@given(trees())
def test_values_are_exact(tree: tuple[str, Fraction | None, list[int]]) -> None:
    text, value, numbers = tree
    expression = parse_expression(text)
    assert expression is not None
    assert expression.value == value
    assert sorted(map(int, expression.numbers)) == sorted(numbers)
