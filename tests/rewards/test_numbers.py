"""If these fail, GSM8K scores are not those of the model: a right number is refused, or a wrong one accepted."""

from __future__ import annotations

from fractions import Fraction

import pytest

from dmpo.rewards import gsm8k
from dmpo.rewards.gsm8k_reward import gold_number, gsm8k_answer, read_number

NUMBERS: list[tuple[str, str | None]] = [
    # plain, with separators, signs and decimals
    *[("18", "18"), (" 18 ", "18"), ("18.", "18"), ("18.0", "18"), ("18.00", "18"), ("18.50", "37/2"), (".5", "1/2")],
    *[("0", "0"), ("00018", "18"), ("-18", "-18"), ("−18", "-18"), ("–18", "-18"), ("- 18", "-18"), ("+18", "18")],
    *[("8,400", "8400"), ("8,400.00", "8400"), ("1,234,567", "1234567"), ("1,00,000", "100000"), ("8 400", "8400")],
    *[("1\u202f234\u202f567", "1234567"), ("8\u00a0400", "8400"), ("-1,200", "-1200"), ("999,999", "999999")],
    # what is around it
    *[("$18", "18"), ("$ 18", "18"), ("-$18", "-18"), ("$-18", "-18"), ("€18", "18"), ("£1,250.50", "2501/2")],
    *[("₹500", "500"), ("USD 18", "18"), ("US$18", "18"), ("Rs. 500", "500"), ("18 USD", "18"), ("18%", "18")],
    *[("50 percent", "50"), ("18 dollars", "18"), ("18 eggs.", "18"), ("The total is 1,200 apples!", "1200")],
    *[("(18)", "18"), ("18,", "18"), ("**18**", "18"), ("`18`", "18"), ("_18_", "18"), ("18 cm^2", "18")],
    *[("18 m²", "18"), ("60 miles/hour", "60"), ("item-5", "5"), ("18 (eighteen)", "18"), ("18 or 18.0", "18")],
    # equations
    *[("x = 18", "18"), ("3 * 6 = 18", "18"), ("= 18", "18"), ("20 - 2 = 18 dollars", "18"), ("x ≈ 18", "18")],
    # fractions, powers, words of size
    *[("1/2", "1/2"), ("3/4 cup", "3/4"), ("3 1/2", "7/2"), ("-3 1/2", "-7/2"), ("6/3", "2"), ("1e3", "1000")],
    *[("1.5 × 10^3", "1500"), ("1.5*10**3", "1500"), ("2E-2", "1/50"), ("2 million", "2000000")],
    *[("1.5 billion people", "1500000000"), ("3 thousand", "3000")],
    # LaTeX
    *[(r"\$18", "18"), (r"18\%", "18"), (r"8{,}400", "8400"), (r"8,\!400", "8400"), (r"8\,400", "8400")],
    *[(r"\frac{3}{4}", "3/4"), (r"\dfrac{3}{4}", "3/4"), (r"3\frac{1}{2}", "7/2"), (r"18 \text{ dollars}", "18")],
    *[(r"\(18\)", "18"), (r"\text{18}", "18"), (r"18\text{ cm}^2", "18"), (r"1.5 \times 10^{3}", "1500")],
    *[(r"\frac18", "1/8"), (r"\frac12", "1/2"), (r"3\frac12", "7/2"), (r"\frac1{20}", "1/20"), (r"\frac{1}2", "1/2")],
    # other signs and words of numbers
    *[("½", "1/2"), ("18½", "37/2"), ("3 ¾ cups", "15/4"), ("⅔", "2/3"), ("minus 18", "-18"), ("negative $5", "-5")],
    *[("18k", "18000"), ("$18K", "18000"), ("1.5M", "1500000"), ("18bn", "18000000000"), ("18 kg", "18")],
    *[("18m", "18"), ("18km", "18"), ("18 hundred", "1800"), ("18 lakh", "1800000"), ("2 dozen", "2")],
    *[("<b>18</b>", "18"), ("It is 18!", "18"), ("18 m^2", "18"), ("x -> 18", "18"), (r"\frac123", None)],
    *[("18²", None), (r"\sqrt{18}", None), ("√18", None), ("sqrt(18)", None), (r"\frac{x}{18}", None), ("x<18", None)],
    *[
        ("x ≥ 18", None),
        ("x >= 18", None),
        ("so => 18", "18"),
        (r"x \leq 18", None),
        (r"x > -\$18", None),
        (r"\sqrt{4} = 2", "2"),
        (r"\frac{1}{2}3", None),
    ],
    # no number, or no single one
    *[("", None), ("eighteen", None), ("18 or 19", None), ("18 - 20", None), ("8,40", None), ("1,2345", None)],
    *[("1.2.3", None), ("€1.234,56", None), ("5:30", None), ("1/0", None), ("3 1/0", None), ("10^3", None)],
    *[("1 23", None), ("12 345 67", None), ("8, 400", None), ("1e999", None), ("x5", None), ("NaN", None)],
    *[("１８", None), ("٣", None), ("1８", None), ("²", None), ("9" * 401, None), ("∞", None), ("1_000", None)],
]


@pytest.mark.parametrize(("text", "value"), NUMBERS)
def test_read_number(text: str, value: str | None) -> None:
    assert read_number(text) == (None if value is None else Fraction(value))


ANSWERS: list[tuple[str, str | None]] = [
    ("<reasoning>\n2 and 16\n</reasoning>\n<answer>\n8,400\n</answer>", "8400"),
    ("<answer>18.0</answer>", "18"),
    ("<answer>1</answer> no, <answer>18</answer>", "18"),
    ("<answer>18", "18"),
    ("<answer></answer>", None),
    ("<answer>the sum</answer> 18", None),
    (r"<answer>\boxed{18}</answer>", "18"),
    (r"<answer>That is \boxed{18} of 20</answer>", "18"),
    (r"so \boxed{1} or rather \boxed{\$8{,}400}", "8400"),
    (r"\fbox{18}", "18"),
    (r"\boxed{18", None),
    ("9 * 2 = 18\n#### 18", "18"),
    ("#### 1,800\nand more text 5", "1800"),
    ("First 2. The answer is 18 apples. There were 20.", "18"),
    ("Answer: $18", "18"),
    ("The final answer is: 18", "18"),
    ("The answer is 18.50.", "37/2"),
    ("The final answer is:\n\n18", "18"),
    ("The answer is:\n$$18$$", "18"),
    ("The answer is:\n\\[\n18\n\\]\nThere were 20.", "18"),
    ("Final Answer: \n18", "18"),
    ("**Answer:**\n\n**18**", "18"),
    ("**Answer**: -$18", "-18"),
    ("9 * 2 = 18\n#### 18\n\nThe answer is correct.", "18"),
    ("#### Step 1\nIt is 2.\nThe answer is 18.", "18"),
    ("The answer is 18. That answer is correct.", None),
    ("18", "18"),
    ("$18 per day", "18"),
    ("She has 20 eggs and sells 2, which leaves her with 18 of them for the market today.", None),
    ("I do not know the answer", None),
    ("<ANSWER>18</ANSWER>", "18"),
]


@pytest.mark.parametrize(("completion", "value"), ANSWERS)
def test_gsm8k_answer(completion: str, value: str | None) -> None:
    assert gsm8k_answer(completion) == (None if value is None else Fraction(value))


def test_the_parts_of_the_reward() -> None:
    perfect = "<reasoning>\nNine eggs at 2 dollars:\n9 * 2 = 18\n</reasoning>\n<answer>\n18\n</answer>"
    cases = {
        perfect: 4.0,
        perfect.replace("\n18\n", "\n19\n"): 2.0,
        perfect.replace("\n18\n", "\nmany\n"): 1.5,
        perfect + "\nDone.": 3.5,  # something after the answer
        perfect.replace("<reasoning>", "Well, <reasoning>"): 3.5,
        "<answer>18</answer><reasoning>so</reasoning>": 3.0,  # the wrong way round
        "<answer>18</answer>": 2.75,
        "18": 2.5,
        "": 0.0,
        "<answer>" * 3: 0.0,
    }
    assert gsm8k(list(cases), answer=["72 - 54\n#### 18"] * len(cases)) == pytest.approx(list(cases.values()))


def test_the_right_answer_as_data_sets_write_it() -> None:
    for answer in ("So he has 8400.\n#### 8,400", "8400", "8,400", 8400, 8400.0):
        assert gold_number(answer) == 8400
        assert gsm8k(["<answer>8,400</answer>"], answer=[answer]) == [2.75]
    assert gsm8k(["<answer>x</answer>"], answer=["none"]) == [0.25], "nothing is right where the answer states none"
