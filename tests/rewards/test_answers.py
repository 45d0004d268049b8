r"""If these fail, the answer in a completion or a solution is not the one that is read."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from dmpo.rewards import gsm8k, math
from dmpo.rewards.answers import (
    boxed_answer,
    boxed_answers,
    form_score,
    gold_of_solution,
    read_answer,
    tagged_answer,
    without_special_tokens,
)

DATA = Path(__file__).parents[1] / "data"
BOXES: list[tuple[str, list[str]]] = [
    (r"so it is $\boxed 2$.", ["2"]),
    (r"It is $3^2 = \boxed 9$", ["9"]),
    (r"\boxed 42", ["42"]),
    (r"\boxed 3, and that is it", ["3"]),
    (r"$\boxed \frac12$ now", [r"\frac12"]),
    (r"\(\boxed 5\) is it", ["5"]),
    (r"$\boxed \$5$", [r"\$5"]),
    (r"\boxed {42}", ["42"]),
    ("\\boxed\n{42}", ["42"]),
    ("\\boxed  \n  {42}", ["42"]),
    ("\\boxed\n\n{42}", []),
    (r"\fbox {7}", ["7"]),
    (r"\boxed{\boxed{5}}", ["5"]),
    (r"\boxed{}", [""]),
    (r"I put it in \boxed.", []),
    (r"\boxedtext{5}", []),
    (r"\boxed{5} and cut off \boxed{\frac{1}", []),
    # a list
    (r"Hence $k$ is $\boxed{1}$ or $\boxed{9}$.", ["1", "9"]),
    (r"\boxed{-2} and \boxed{1}", ["-2", "1"]),
    (r"\boxed{1}, \boxed{2}, and \boxed{3}", ["1", "2", "3"]),
    (r"$\boxed{1}$ $\boxed{2}$", ["1", "2"]),
    ("\\boxed{1}\n\\boxed{2}", ["1", "2"]),
    (r"the smaller is \boxed{1} and the larger is \boxed{9}", ["1", "9"]),
    (r"$\boxed{1}$, $\boxed 2$", ["1", "2"]),
    # no list: another sentence, or the first is revised
    (r"$x=\boxed{1}$. So $y=\boxed{9}$", ["9"]),
    ("$\\boxed{1}$\n\nand $\\boxed{9}$", ["9"]),
    (r"first \boxed{1}, then \boxed{\{1, 2\}}", [r"\{1, 2\}"]),
    (r"so \boxed{1} or rather \boxed{2}", ["2"]),
    (r"\boxed{\frac12} = \boxed{0.5}", ["0.5"]),
    (r"\boxed{1}, wait, \boxed{2}", ["2"]),
    (r"\boxed{5}, not \boxed{6}", ["5"]),
    (r"it is not \boxed{6}", []),
]


@pytest.mark.parametrize(("text", "boxes"), BOXES)
def test_boxes_of_the_answering_sentence(text: str, boxes: list[str]) -> None:
    assert boxed_answers(text) == boxes
    assert boxed_answer(text) == (boxes[-1] if boxes else None)


def test_the_right_answer_of_a_solution() -> None:
    assert gold_of_solution(r"Hence $k$ is $\boxed{1}$ or $\boxed{9}$.") == "1,9"
    assert gold_of_solution(r"$\boxed{1}$ or $\boxed{900}$") == "1, 900", "1,900 would be one number"
    assert gold_of_solution(r"$\boxed{3}$, that is $\boxed{3}$") == "3"
    assert gold_of_solution(r"There are $\boxed{}$ of them.") is None
    assert gold_of_solution("There are 5.") is None


def test_where_the_answer_is() -> None:
    assert read_answer("<answer>\n</answer>\n\\boxed{5}") == "5"
    assert read_answer("<answer>5</answer>\n\\boxed{6}") == "5"
    assert read_answer("<answer></answer>") == ""
    assert read_answer(r"\boxed{4} <answer></answer>") == "", "a box before the tags is none of the answer"
    assert read_answer(r"<answer>\boxed{1} and \boxed{2}</answer>") == "1,2"
    assert tagged_answer("<answer>5<|eot_id|>") == "5"
    assert tagged_answer("<answer>5<|eot_id|>\nhm<|endoftext|>") == "5"
    assert read_answer("<answer>$-2<|x|<2$</answer>") == "$-2<|x|<2$", "no special token"


def test_special_tokens_at_the_end() -> None:
    assert without_special_tokens("5<|eot_id|>") == "5"
    assert without_special_tokens("5</s> <|endoftext|>\n<|endoftext|>") == "5"
    assert without_special_tokens(" 5 ") == " 5 "
    assert without_special_tokens("<b>") == "<b>"
    assert without_special_tokens("") == ""
    whole = "<reasoning>so</reasoning><answer>5</answer>"
    assert form_score(whole + "<|eot_id|>") == form_score(whole)


@pytest.mark.parametrize(
    "unit", ["\\boxed{", "\\boxed", "<|eot_id|>", "\\boxed 2$ and ", "\\boxed{1},", "<", "[", "\n"]
)
def test_long_texts(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    start = time.process_time()
    read_answer(text)
    gold_of_solution(text)
    assert time.process_time() - start < 4, "linear in the text, with room for a slow machine"
    assert boxed_answers("\\boxed{" * 600 + "5" + "}" * 600)


def handed() -> list[dict[str, object]]:
    return [json.loads(line) for line in (DATA / "answers.jsonl").read_text(encoding="utf-8").splitlines()]


def test_answers_of_public_reports() -> None:
    cases = handed()
    assert len(cases) == 37
    for task, reward in (("math", math), ("gsm8k", gsm8k)):
        chosen = [case for case in cases if case["task"] == task]
        scores = reward([str(case["completion"]) for case in chosen], answer=[case["gold"] for case in chosen])
        wrong = [case for case, score in zip(chosen, scores, strict=True) if (score >= 2) != case["right"]]
        assert wrong == []


@pytest.mark.parametrize("task", ["math", "gsm8k"])
def test_forms_of_answers(task: str) -> None:
    """Some 1,700 texts that say the same as a right answer, or do not, in tags and in boxes."""
    lines = (DATA / "answer_forms.jsonl").read_text(encoding="utf-8").splitlines()
    forms = [form for form in map(json.loads, lines) if form["task"] == task]
    cases = [(form["gold"], text, True) for form in forms for text in [*form["same"], form["gold"]]]
    cases += [(form["gold"], text, False) for form in forms for text in form["different"]]
    reward = {"math": math, "gsm8k": gsm8k}[task]
    for wrap in ("<answer>{}</answer>", "<reasoning>so</reasoning>\n<answer>\n{}\n</answer>"):
        scores = reward([wrap.replace("{}", text) for _, text, _ in cases], answer=[gold for gold, _, _ in cases])
        # A wrong number in the whole form has 2.
        assert [case for case, score in zip(cases, scores, strict=True) if (score > 2) != case[2]] == []
