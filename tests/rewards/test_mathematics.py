r"""If these fail, MATH scores are not those of the model, or `9^{9^{9}}` holds up a run."""

from __future__ import annotations

import time

import pytest

from dmpo.rewards import math
from dmpo.rewards import math_reward as mathematics
from dmpo.rewards.math_reward import CPU_LIMIT, _may_be_latex, _pool, gold_latex, math_answer, math_correct
from dmpo.rewards.outcomes import failures

EQUIVALENT: list[tuple[str, str, bool]] = [
    *[(r"\frac12", r"\frac{1}{2}", True), ("0.5", r"\frac{1}{2}", True), ("1/2", r"\frac{1}{2}", True)],
    *[(r"\dfrac{1}{2}", r"\frac{1}{2}", True), ("x=5", "5", True), (r"5\text{ cm}", "5", True), ("5", "6", False)],
    *[(r"(1,2)", "(1, 2)", True), ("(2,1)", "(1,2)", False), ("[0,1)", "(0,1)", False), ("[0,1)", "[0, 1)", True)],
    *[(r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)", True), (r"50\%", "50", True), (r"\$18.90", "18.90", True)],
    *[("1,234", "1234", True), (r"\text{Evelyn}", r"\text{Evelyn}", True), (r"\text{Ann}", r"\text{Evelyn}", False)],
    *[
        ("2x+3", "3+2x", True),
        ("2x-3", "3+2x", False),
        (r"\{1,2\}", r"\{2,1\}", True),
        (r"\sqrt{50}", r"5\sqrt{2}", True),
    ],
    *[(r"90^\circ", "90", True), (r"\infty", r"-\infty", False), (r"\frac{3}{4}\pi", r"\frac{3\pi}{4}", True)],
    *[(r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", True), ("2516_8", "2516_8", True)],
    *[(r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}", False), ("$5$", "5", True)],
    *[
        (r"10\text{ or }12", "12, 10", True),
        (r"1\pm\sqrt{19}", r"1 - \sqrt{19}, 1+\sqrt{19}", True),
        ("018", "18", True),
    ],
    *[
        ("0.333", r"\frac13", False),
        ("(x+1)^2", "x^2+2x+1", True),
        ("2^{10}", "1024", True),
        (r"\text{(C)}", "C", True),
    ],
    *[
        (r"\log_2 8", "3", True),
        ("2516_{10}", "2516", True),
        (r"x\ne5", r"x\neq 5", True),
    ],
    *[("√2", r"\sqrt2", True), ("√(2)", r"\sqrt2", True), ("3√12", r"6\sqrt{3}", True), ("√3", r"\sqrt2", False)],
    *[("(−∞, 3)", r"(-\infty,3)", True), ("∞", r"\infty", True), ("x²", "x^2", True), ("x⁻¹²", "x^{-12}", True)],
    *[("pi/4", r"\frac{\pi}{4}", True), (r"**\pi**.", r"\pi", True), ("(3,4).", "(3,4)", True), ("x²", "x^3", False)],
    *[
        ("9⁹⁹⁹⁹⁹", "5", False),
        ("10 million", "10", False),
        ("½" * 300, "5", False),
        ("2·x", "2x", True),
        ("2 m", "2m", True),
        ("2 m", "3m", False),
    ],
    *[(r"\frac{1}{0}", "5", False), ("", "5", False), ("{5", "5", False), ("5\x00", "5", False)],
    # hostile: refused unasked
    *[("9^{9^{9}}", "5", False), ("9^{(9^9)}", "5", False), ("9**9**9", "5", False), ("2^{99999}", "5", False)],
    *[("(99999!)!", "5", False), (r"\binom{99999999}{5}", "5", False), ("9" * 301, "5", False), ("\ud800", "5", False)],
    *[
        ("{" * 200, "5", False),
        ("5🙂", "5", False),
        ("５", "5", False),
        (r"\sqrt{" * 40, "5", False),
        ("(" * 10_000 + ")" * 10_000, "5", False),
    ],
]


UNASKED: list[tuple[str, str, bool]] = [
    *[
        ("3.5*2", "5", False),
        ("3.5*2", "7", True),
        (r"3.5 \times 2", "7", True),
        ("1/0", "5", False),
        ("5", "6", False),
    ],
    *[(r"\frac{1}{0}", r"\pi", False), ("97**98**99", "5", False), ("9^{9^{9}}", "5", False), ("5.", "5", True)],
    *[("(" * 10_000 + ")" * 10_000, "5", False), ("(" * 140 + ")" * 140, "5", False), ("8,400", "8400", True)],
    *[
        ("8,400", "5", False),
        ("18.0", "18", True),
        ("18.0", "5", False),
        (r"\$18.00", "18", True),
        ("$18.00", "5", False),
    ],
    *[("-5", "5", False), ("−5", "-5", True), ("+5", "5", True), (".5", r"\frac12", True), (r"\dfrac 12", "0.5", True)],
    *[(r"8{,}400.5", "8400.5", True), (r"8,\!400", "8,400", True), ("0.333333333", r"\frac{1}{3}", False)],
    *[("1,234,567", "1234567", True), (r"-\$1,200", "-1200", True), (r"\frac{-3}{4}", "-0.75", True)],
    # as people write it
    *[("90°", r"90^\circ", True), ("90°", "90", True), ("½", r"\frac12", True), ("½", "5", False), ("1½", "1.5", True)],
    *[("1 1/2", "1.5", True), (r"-1\frac{1}{2}", "-1.5", True), (r"12.5\%", "12.5", True), ("12.5", r"12.5\%", True)],
    *[("12.5%", "0.125", True), ("0.125", r"12.5\%", True), (r"0.125\%", "12.5", False), (r"1250\%", r"12.5\%", False)],
    *[
        ("**5**", "5", True),
        ("`5`", "5", True),
        ("**5.**", "5", True),
        ("10 dollars", "10", True),
        ("10 cm", "10", True),
    ],
    *[("The answer is 5", "5", True), ("So the final answer is: 5.", "5", True), ("The answer is 6", "5", False)],
    *[("1,200 feet", "1200", True), ("90^{\\circ}", "91°", False)],
    # math-verify passes over bases, and over what an unknown is not
    *[("2516_7", "2516_8", False), ("2516_8", "2516_{8}", True), ("2516", "2516_8", True), ("1358", "2516_8", False)],
    *[("2516_8", "2516", False), ("2516_{10}", "2516_8", False), ("1011_2", "1011_3", False), ("1A_{16}", "1A", False)],
    *[
        ("1A_{16}", "1A_{15}", False),
        ("1A", "1A_{16}", True),
        ("x = 12_5", "x = 12_6", False),
        ("2517_8", "2516_8", False),
    ],
    *[(r"x\not= 5", "5", False), (r"\ne 5", "5", False), (r"x \neq 5", "5", False), ("x≠5", "5", False)],
]


def test_plain_arithmetic_takes_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker takes seconds to start, and a process's first call has to wait for it."""

    def none() -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr(mathematics, "_pool", none)
    for text, gold, wanted in UNASKED:
        assert math_correct([f"<answer>{text}</answer>"], [gold]) == [wanted], (text, gold)
    with pytest.raises(AssertionError, match="started"):
        math_correct([r"\boxed{\int_0^1 2x dx}"], ["1"])
    assert not any(mathematics._bases(text) for text in (r"\log_2 8", "{}_5C_2", "{}_{5}C_{2}", "2x_2", "a_{12}"))


def test_equivalent_answers() -> None:
    texts, gold, wanted = zip(*EQUIVALENT, strict=True)
    found = math_correct([f"<answer>\\boxed{{{text}}}</answer>" for text in texts], list(gold))
    assert [case for case, right in zip(EQUIVALENT, found, strict=True) if right != case[2]] == []
    assert math_correct([f"<answer>{text}</answer>" for text in texts], list(gold)) == list(wanted), "without a box"


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"<reasoning>\boxed{1}</reasoning><answer>\boxed{\frac{1}{2}}</answer>", r"\frac{1}{2}"),
        (r"<answer>\frac{1}{2}</answer>", r"\frac{1}{2}"),
        (r"<answer>so \boxed{7} it is</answer>", "7"),
        ("<answer>\n7\n</answer>", "7"),
        (r"first \boxed{1}, then \boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\text{a } b}", r"\text{a } b"),
        (r"so \fbox{7}", "7"),
        (r"cut off \boxed{\frac{1}", None),
        ("It is 7,\nI think", None),
        ("7", "7"),
        ("", None),
        ("<answer></answer>", None),
        (f"<answer>{'7' * 301}</answer>", None),
    ],
)
def test_math_answer(completion: str, answer: str | None) -> None:
    assert math_answer(completion) == answer


def test_the_parts_of_the_reward() -> None:
    cases = {
        "<reasoning>\nHalf.\n</reasoning>\n<answer>\n\\boxed{\\frac{1}{2}}\n</answer>": 3.0,
        "<answer>\\boxed{2}</answer>": 1.0,
        "<answer>0.5</answer>": 2.5,
        "<answer>0.5": 2.0,
        "\\boxed{0.5}": 2.5,
        "\\boxed{2}": 0.5,
        "2": 0.0,
        "": 0.0,
    }
    solution = "Divide: $\\boxed{\\frac{1}{2}}$."
    assert math(list(cases), answer=[solution] * len(cases)) == list(cases.values())
    assert gold_latex(solution) == r"\frac{1}{2}"


def test_a_comparison_is_ended_at_its_limit() -> None:
    r"""What is not refused beforehand: the worker is killed, counted, and the other comparisons are not harmed."""
    bomb = r"\int_0^{99} (x^{99}+1)^{99} dx"
    assert _may_be_latex(bomb)
    math(["7"], answer=[r"\sqrt{49}"])  # start the worker
    pool, start = _pool(), time.process_time()
    began = time.monotonic()
    scores = pool.score(["9^{9^{9}}", "2"], {"gold": ["5", r"\frac{4}{2}"]})
    assert scores.values == [0.0, 1.0]
    assert [(failure.row, failure.kind) for failure in scores.failures] == [(0, "timeout")]
    assert time.process_time() - start < 0.2, "this process only waited"
    assert time.monotonic() - began < 60
    with failures() as failed:
        assert math([f"\\boxed{{{bomb}}}", r"\boxed{2}"], answer=["5", r"\sqrt{4}"]) == [0.5, 2.5]
    assert [(failure.row, failure.kind) for failure in failed] == [(0, "timeout")]
    assert CPU_LIMIT < 1


def test_refused_unasked() -> None:
    for bomb in (
        "9^{9^{9}}",
        "9^9^9",
        "2^{(3)^{4}}",
        "(5!)!",
        "99999!",
        "10^{10000}",
        r"\binom{123456}{7}",
        "1####2",
        "(x+1)^{999}",
    ):
        assert not _may_be_latex(bomb), bomb
    for fine in (
        "2^{2005}",
        r"x^{y^2}",
        "5!",
        r"\binom{10}{5}",
        "2^{n}^",
        "(x+1)^{99}",
        "3 − 2√2 ≤ x",
        r"\sqrt{1+\sqrt{2}}",
        "--3",
        r"\{1\}",
        "10^{99}",
        "π",
        "1\u00a0000",
    ):
        assert _may_be_latex(fine), fine
