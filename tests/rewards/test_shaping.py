"""If these fail, a ready-made reward pays for another form, length or answer than its docstring says, or hangs."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmpo.rewards import RewardPool, exact_answer, format, length, repetition, score, shaping

READY_MADE: list[dict[str, Any]] = [
    {"function": "dmpo.rewards:format", "options": {"pattern": "<answer>.*</answer>"}},
    {"function": "dmpo.rewards:length", "options": {"limit": 4}},
    {"function": "dmpo.rewards:exact_answer"},
    {"function": "dmpo.rewards:repetition", "options": {"n": 1}},
]


def test_all_of_them_by_name_in_this_process() -> None:
    pool = RewardPool(READY_MADE, [1.0, 0.5, 2.0, 1.0])
    assert [runner.workers for runner in pool.runners] == [None] * 4
    pool.check({"prompt": "", "answer": "7"})
    scores = pool.score(["<answer>7</answer>", "7 7", "7"], {"answer": ["7", "7", 7]})
    assert scores.parts == {
        "format": [1.0, 0.0, 0.0],
        "length": [0.0, 1.0, 1.0],
        "exact_answer": [1.0, 0.0, 1.0],
        "repetition": [0.0, -0.5, 0.0],
    }
    assert scores.values == [3.0, 0.0, 2.5]


def test_columns_of_the_data_are_no_options() -> None:
    """Countdown's rows have a `target`; a data set may have any names."""
    columns = {name: [5] for name in ("target", "limit", "n", "unit", "pattern", "column")} | {"answer": ["7"]}
    scores = RewardPool(READY_MADE).score(["<answer>7</answer>"], columns)
    assert not scores.failures
    assert scores.parts == {"format": [1.0], "length": [0.0], "exact_answer": [1.0], "repetition": [0.0]}
    with pytest.raises(ValueError, match="has no option 'longest'; its parameters are limit, target, unit"):
        RewardPool({"function": "dmpo.rewards:length", "options": {"longest": 3}})


def test_format() -> None:
    texts = ["a\nb", "ab", "b a", "b a<|eot_id|>\n"]
    assert format(texts, pattern="a.b") == [1.0, 0.0, 0.0, 0.0], "a dot is a line end, too"
    assert format(texts, pattern=r"\Ab a\Z") == [0.0, 0.0, 1.0, 1.0]
    with pytest.raises(ValueError, match=r"pattern '\(' is no regular expression: missing \)"):
        format(texts, pattern="(")
    with pytest.raises(ValueError, match="reward format needs pattern, which is an option"):
        RewardPool("dmpo.rewards:format").check({})


def test_hostile_text_takes_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shaping, "MATCH_SECONDS", 0.05)
    hostile = "<step></step> " * 300  # (…)+ within .* : the tries double with each step
    reward = partial(format, pattern=r"(?:<step>.*</step>\s*)+<answer>")
    scores = RewardPool(reward).score(["<step></step><answer>", hostile], {})
    assert scores.values == [1.0, 0.0]
    assert [(failure.row, failure.kind) for failure in scores.failures] == [(1, "timeout")]
    assert "was not matched within 0.05 s of CPU time" in scores.details(1)["failure"]
    last = exact_answer([hostile], pattern=r"(?:<step>.*</step>\s*)+<answer>", answer=["7"])
    assert last == [0.0]


def test_exact_answer() -> None:
    texts = ["it is <answer> 7 </answer>", r"\boxed{7}", " 7 ", "7 of 7", "no"]
    columns: dict[str, list[Any]] = {"answer": [7, "7", "7", "7", "7"], "gold": ["x"] * 5}
    assert score(exact_answer, texts, columns) == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert score(partial(exact_answer, pattern=r"of (\d)"), texts, columns) == [0.0, 0.0, 0.0, 1.0, 0.0]
    assert score(partial(exact_answer, pattern=r"\d"), ["1 2"], {"answer": [2]}) == [1.0], "the last match counts"
    assert score(partial(exact_answer, column="gold"), ["x"], {"gold": ["x"]}) == [1.0]
    with pytest.raises(ValueError, match="column of exact_answer must be one of gold, got 'answer'"):
        exact_answer(["x"], gold=["x"])


@pytest.mark.parametrize(
    ("options", "scores"),
    [
        ({"limit": 4}, [1.0, 1.0, 1.0, 0.75, 0.0, 0.0]),
        ({"target": 4}, [0.0, 0.75, 1.0, 0.75, 0.0, 0.0]),
    ],
)
def test_length(options: dict[str, int], scores: list[float]) -> None:
    counts = [0, 3, 4, 5, 8, 20]
    assert length(["x" * count for count in counts], **options) == scores  # type: ignore[arg-type]
    assert length(["long " * count for count in counts], unit="words", **options) == scores


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        ("length", {}, "either limit or target, got limit=None and target=None"),
        ("length", {"limit": 1, "target": 1}, "either limit or target"),
        ("length", {"limit": 0}, "whole number ≥ 1, got 0"),
        ("length", {"limit": 1, "unit": "tokens"}, "unit must be characters or words, got 'tokens'"),
        ("length", {"most": 1}, "reward length has no option 'most'; its parameters are limit, target, unit"),
        ("repetition", {"n": 0}, "n of repetition must be a whole number ≥ 1, got 0"),
    ],
)
def test_wrong_options_are_named_before_any_work(function: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardPool([{"function": f"dmpo.rewards:{function}", "options": options}]).check({})


@given(st.text(alphabet="ab ", max_size=30), st.integers(1, 4))
def test_repetition(text: str, n: int) -> None:
    words = text.split()
    grams = [" ".join(words[i:][:n]) for i in range(len(words)) if len(words[i:]) >= n]
    repeated = sum(gram in grams[:i] for i, gram in enumerate(grams))
    assert repetition([text], n=n) == [pytest.approx(-repeated / max(1, len(grams)))]


@given(st.text(alphabet="<answer>/{}\\boxed7| \n\x00é\ud800", max_size=40))
def test_no_text_makes_them_raise(text: str) -> None:
    for entry in READY_MADE:
        reward = getattr(shaping, entry["function"].partition(":")[2])
        (value,) = reward([text], answer=["7"], **entry.get("options", {}))
        assert -1 <= value <= 1
