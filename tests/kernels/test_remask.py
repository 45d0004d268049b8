"""remask_: a wrong rank, tie, bound or count here changes which tokens every decoder writes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import dmpo.kernels.remask.extension as extension
from dmpo.kernels import reference, remask_

from .kernel_oracle import tensors_on
from .remask_rows import INF, MASK, NAN, assert_refused, make_rows, rule_name
from .remask_rows import REMASK_RULES as RULES

pytestmark = pytest.mark.usefixtures("extension")


def assert_as_reference(tokens: Tensor, candidates: Tensor, confidence: Tensor, **rule: Any) -> None:
    expected, actual = tokens.clone(), tokens.clone()
    expected_moved = reference.remask_(expected, candidates, confidence, mask_id=MASK, **rule)
    moved = remask_(actual, candidates, confidence, mask_id=MASK, **rule)
    assert moved.dtype == torch.int32
    assert moved.tolist() == expected_moved.tolist()
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("rule", RULES, ids=rule_name)
@pytest.mark.parametrize("length", [1, 7, 63, 64, 65, 200])  # around one lane group of the CPU code, and several
def test_random_rows_agree_with_the_reference(length: int, rule: dict[str, Any]) -> None:
    assert_as_reference(*make_rows(48, length, seed=length), **rule)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rule", RULES, ids=rule_name)
def test_confidence_dtypes_agree_with_the_reference(dtype: torch.dtype, rule: dict[str, Any]) -> None:
    assert_as_reference(*make_rows(12, 100, seed=1, dtype=dtype), **rule)


def test_float64_is_not_rounded() -> None:
    confidence = torch.tensor([[0.5, 0.5 + 1e-12]], dtype=torch.float64)
    tokens = torch.full((1, 2), MASK)
    remask_(tokens, torch.tensor([[1, 2]]), confidence, mask_id=MASK, num_transfer=1)
    assert tokens.tolist() == [[MASK, 2]]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8], ids=str)
def test_counts_per_row(dtype: torch.dtype) -> None:
    tokens, candidates, confidence = make_rows(60, 90, seed=2)
    counts = torch.arange(60).remainder(100).to(dtype)
    assert_as_reference(tokens, candidates, confidence, num_transfer=counts)
    assert_as_reference(tokens, candidates, confidence, num_transfer=counts.repeat_interleave(2)[::2])


@pytest.mark.cpu_only("threads")
@pytest.mark.parametrize(
    "rule", [{"num_transfer": 5}, {"threshold": 0.8}, {"factor": 1.0}, {"risk": 0.7}], ids=rule_name
)
def test_many_rows_in_parallel(rule: dict[str, Any]) -> None:
    rows = make_rows(1100, 150, seed=3)  # above the work at which rows are shared between threads
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            assert_as_reference(*rows, **rule)
    finally:
        torch.set_num_threads(threads)


CONFIDENCES = st.one_of(
    st.sampled_from([0.0, -0.0, 0.25, 0.5, 0.75, 1.0, NAN, INF, -INF]), st.floats(0, 1, width=32, allow_nan=False)
)


@settings(max_examples=400, deadline=None)
@given(
    confidence=st.lists(CONFIDENCES, min_size=0, max_size=40),
    masked=st.integers(min_value=0),
    rule=st.one_of(
        st.fixed_dictionaries({"num_transfer": st.integers(0, 45)}),
        st.fixed_dictionaries({"threshold": st.floats(-1, 2)}),
        st.fixed_dictionaries({"factor": st.floats(0, 40)}),
        st.fixed_dictionaries({"risk": st.floats(0, 1)}, optional={"num_transfer": st.integers(0, 45)}),
    ),
)
def test_the_choice_is_the_longest_admitted_prefix(confidence: list[float], masked: int, rule: dict[str, Any]) -> None:
    positions = [j for j in range(len(confidence)) if masked >> j & 1]
    before = [MASK if j in positions else -1 for j in range(len(confidence))]
    tokens = torch.tensor([before], dtype=torch.int64)
    candidates = torch.arange(len(confidence)).unsqueeze(0)
    conf = torch.tensor([confidence], dtype=torch.float32)
    moved = int(remask_(tokens, candidates, conf, mask_id=MASK, **rule))

    values = [-INF if math.isnan(c) else c for c in conf[0].tolist()]
    ranking = sorted(positions, key=lambda j: (-values[j], j))
    chosen = [j for j in positions if tokens[0, j] != MASK]
    assert len(chosen) == moved
    assert sorted(ranking[:moved]) == chosen
    after = [j if j in chosen else token for j, token in enumerate(before)]
    assert tokens[0].tolist() == after
    if "risk" in rule:
        tau, spent, least = rule["risk"], 0.0, max(1, rule.get("num_transfer", 0))
        within = []
        for j in ranking:
            spent += 1 - values[j]
            within.append(values[j] > tau and spent <= 1 - tau)
        prefix = within.index(False) if False in within else len(within)
        assert moved == min(max(prefix, least), len(ranking))
        return
    if "num_transfer" in rule:
        assert moved == min(rule["num_transfer"], len(ranking))
        return
    bounds = [rule["threshold"] if "threshold" in rule else 1 - rule["factor"] / (n + 1) for n in range(1, 100)]
    fits = [n == 1 or values[ranking[n - 1]] >= bounds[n - 1] for n in range(1, len(ranking) + 1)]
    assert moved == (fits.index(False) if False in fits else len(fits))


def test_nan_ranks_last_and_ties_go_to_the_lowest_position() -> None:
    confidence = torch.tensor([[NAN, 0.5, -INF, 0.5, 0.0]])
    tokens = torch.full((1, 5), MASK)
    order = []
    for _ in range(5):
        before = tokens.clone()
        remask_(tokens, torch.zeros_like(tokens), confidence, mask_id=MASK, num_transfer=1)
        order.append(int((before != tokens).nonzero()[0, 1]))
    assert order == [1, 3, 4, 0, 2]


@pytest.mark.parametrize(
    "rule", [{"num_transfer": 2}, {"threshold": 0.0}, {"factor": 5.0}, {"risk": 0.5}], ids=rule_name
)
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0), (3, 5)], ids=str)
def test_nothing_to_unmask(shape: tuple[int, int], rule: dict[str, Any]) -> None:
    tokens = torch.zeros(shape, dtype=torch.int64)
    moved = remask_(tokens, torch.ones_like(tokens), torch.ones(shape), mask_id=MASK, **rule)
    assert moved.tolist() == [0] * shape[0]
    assert moved.dtype == torch.int32
    assert not tokens.any()


def test_views_with_any_strides() -> None:
    tokens, candidates, confidence = make_rows(40, 60, seed=4)
    for view in (
        lambda t: t[:, 11:43],
        lambda t: t[::2, ::3],
        lambda t: t.t(),
    ):
        whole = tokens.clone()
        expected = view(tokens).clone(memory_format=torch.contiguous_format)
        reference.remask_(expected, view(candidates), view(confidence), mask_id=MASK, num_transfer=4)
        remask_(view(whole), view(candidates), view(confidence), mask_id=MASK, num_transfer=4)
        assert torch.equal(view(whole), expected)
        view(whole).copy_(view(tokens))
        assert torch.equal(whole, tokens), "positions outside the view were written"
    assert_as_reference(tokens, candidates[:1].expand(40, 60), confidence[:1].expand(40, 60), threshold=0.5)


def test_needs_no_gradient_from_confidence() -> None:
    tokens, candidates, confidence = make_rows(4, 10)
    moved = remask_(tokens, candidates, confidence.requires_grad_(), mask_id=MASK, num_transfer=1)
    assert not moved.requires_grad


def arguments(**changes: Any) -> dict[str, Any]:
    tokens, candidates, confidence = make_rows(3, 8)
    named = {"tokens": tokens, "candidates": candidates, "confidence": confidence, "mask_id": MASK, "num_transfer": 1}
    return named | changes


BAD_INPUT: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "tokens-type": ({"tokens": [[1]]}, TypeError, "tokens must be a tensor"),
    "tokens-dtype": ({"tokens": torch.zeros(3, 8, dtype=torch.int32)}, TypeError, "tokens must be int64"),
    "candidates-dtype": ({"candidates": torch.zeros(3, 8)}, TypeError, "candidates must be int64"),
    "confidence-dtype": ({"confidence": torch.zeros(3, 8).long()}, TypeError, "confidence must be floating"),
    "mask-id": ({"mask_id": None}, TypeError, "mask_id must be an int"),
    "tokens-shape": ({"tokens": torch.zeros(8).long()}, ValueError, r"tokens must be \[B, L\], got \[8\]"),
    "candidates-shape": ({"candidates": torch.zeros(3, 7).long()}, ValueError, r"candidates must be \[3, 8\]"),
    "confidence-shape": ({"confidence": torch.zeros(2, 8)}, ValueError, r"confidence must be \[3, 8\]"),
    "device": ({"confidence": torch.zeros(3, 8, device="meta")}, ValueError, "confidence must be on cpu"),
    "no-rule": ({"num_transfer": None}, ValueError, "exactly one.*none"),
    "two-rules": ({"threshold": 0.5}, ValueError, "exactly one.*num_transfer and threshold"),
    "count-type": ({"num_transfer": 1.5}, TypeError, "num_transfer must be an int.*float"),
    "count-bool": ({"num_transfer": True}, TypeError, "num_transfer must be an int.*bool"),
    "count-negative": ({"num_transfer": -1}, ValueError, "not be negative, got -1"),
    "counts-dtype": ({"num_transfer": torch.ones(3)}, TypeError, "num_transfer must be an int.*float32"),
    "counts-shape": ({"num_transfer": torch.ones(2).long()}, ValueError, r"num_transfer must be \[3\]"),
    "counts-negative": ({"num_transfer": torch.tensor([1, -2, 0])}, ValueError, "not be negative, got -2"),
    "counts-device": (
        {"num_transfer": torch.ones(3, dtype=torch.int64, device="meta")},
        ValueError,
        "num_transfer must be on cpu",
    ),
    "threshold-type": ({"num_transfer": None, "threshold": "0.9"}, TypeError, "threshold must be a float"),
    "threshold-nan": ({"num_transfer": None, "threshold": NAN}, ValueError, "threshold must be finite"),
    "factor-inf": ({"num_transfer": None, "factor": INF}, ValueError, "factor must be finite"),
    "risk-range": ({"num_transfer": None, "risk": 1.5}, ValueError, r"risk must be in \[0, 1\], got 1.5"),
    "risk-and-factor": ({"risk": 0.5, "factor": 1.0}, ValueError, "exactly one.*num_transfer and factor and risk"),
    "factor-negative": ({"num_transfer": None, "factor": -1}, ValueError, "factor must not be negative"),
}


@pytest.mark.cpu_only("messages name the CPU, and on a GPU negative counts are taken for 0")
@pytest.mark.parametrize("case", BAD_INPUT)
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "reference"])
def test_bad_input_is_refused_and_nothing_written(case: str, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    changes, error, message = BAD_INPUT[case]
    if not compiled:
        monkeypatch.setattr(extension, "_module", None)
    assert_refused(remask_, arguments(**changes), error, message)


def test_overlapping_tokens_are_refused() -> None:
    tokens = torch.full((1, 4), MASK).expand(3, 4)
    with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
        remask_(tokens, torch.zeros(3, 4).long(), torch.zeros(3, 4), mask_id=MASK, num_transfer=1)


@pytest.mark.cpu_only("messages name the CPU, and on a GPU negative counts are taken for 0")
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"tokens": torch.zeros(3, 8)}, ValueError),
        ({"candidates": torch.zeros(3, 8)}, ValueError),
        ({"confidence": torch.zeros(3, 8, dtype=torch.bfloat16)}, ValueError),
        ({"tokens": torch.zeros(24).long()}, ValueError),
        ({"confidence": torch.zeros(3, 7)}, ValueError),
        ({"count": None}, ValueError),
        ({"count": -1}, ValueError),
        ({"threshold": 0.5}, ValueError),
        ({"count": None, "threshold": NAN}, ValueError),
        ({"count": None, "factor": -1.0}, ValueError),
        ({"risk": -0.1}, ValueError),
        ({"risk": NAN}, ValueError),
        ({"risk": 0.5, "threshold": 0.5}, ValueError),
        ({"risk": 0.5, "counts": torch.ones(3).long()}, ValueError),
        ({"count": None, "counts": torch.ones(3)}, ValueError),
        ({"count": None, "counts": torch.ones(3, 1).long()}, ValueError),
        ({"count": None, "counts": torch.tensor([0, 0, -1])}, ValueError),
    ],
    ids=str,
)
def test_the_operator_checks_what_it_is_given(changes: dict[str, Any], error: type[Exception]) -> None:
    named = arguments()
    named["count"] = named.pop("num_transfer")
    with pytest.raises(error, match="remask_"):
        torch.ops.dmpo.remask_(**(named | changes))


OPERATOR_RULES: list[dict[str, Any]] = [
    {"count": 3},
    {"counts": torch.tensor([1, 0, 9])},
    {"threshold": 0.5},
    {"factor": 1.0},
    {"risk": 0.5},
    {"risk": 0.5, "counts": torch.tensor([1, 0, 9])},
]


@pytest.mark.parametrize("rule", OPERATOR_RULES, ids="-".join)
def test_opcheck(rule: dict[str, Any], device: torch.device) -> None:
    tokens, candidates, confidence = make_rows(3, 20)
    torch.library.opcheck(
        torch.ops.dmpo.remask_.default, (tokens, candidates, confidence, MASK), rule | tensors_on(rule, device)
    )


@pytest.mark.parametrize(
    "rule",
    [
        {"num_transfer": 3},
        {"num_transfer": torch.tensor([1, 0, 9])},
        {"threshold": 0.5},
        {"factor": 1.0},
        {"risk": 0.5},
    ],
    ids=lambda rule: f"{next(iter(rule))}-{type(next(iter(rule.values()))).__name__}",
)
def test_compiles_into_one_graph(rule: dict[str, Any], device: torch.device) -> None:
    rule = rule | tensors_on(rule, device)

    def step(tokens: Tensor, candidates: Tensor, confidence: Tensor) -> tuple[Tensor, Tensor]:
        moved = remask_(tokens, candidates, confidence.square(), mask_id=MASK, **rule)
        return moved, (tokens == MASK).sum(-1)

    rows = make_rows(3, 20)
    expected = rows[0].clone()
    moved, left = step(expected, *rows[1:])
    actual = rows[0].clone()
    compiled_moved, compiled_left = torch.compile(step, fullgraph=True, backend="aot_eager")(actual, *rows[1:])
    assert torch.equal(actual, expected)
    assert torch.equal(compiled_moved, moved)
    assert torch.equal(compiled_left, left)
