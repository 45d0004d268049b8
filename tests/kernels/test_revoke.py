"""revoke_: a wrong rank, tie or limit here changes which tokens wino turns back into masks."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import dmpo.kernels.remask.extension as extension
from dmpo.kernels import reference, revoke_

from .kernel_oracle import tensors_on
from .remask_rows import INF, MASK, NAN, REVOKE_RULES, assert_refused, make_rows, rule_name

pytestmark = pytest.mark.usefixtures("extension")


def assert_as_reference(tokens: Tensor, confidence: Tensor, **rule: Any) -> None:
    expected, actual = tokens.clone(), tokens.clone()
    expected_revoked = reference.revoke_(expected, confidence, mask_id=MASK, **rule)
    revoked = revoke_(actual, confidence, mask_id=MASK, **rule)
    assert revoked.dtype == torch.int32
    assert revoked.tolist() == expected_revoked.tolist()
    assert torch.equal(actual, expected)


def rows(number: int, length: int, **options: Any) -> tuple[Tensor, Tensor]:
    tokens, _, confidence = make_rows(number, length, **{"masked": 0.3} | options)
    return tokens, confidence


@pytest.mark.parametrize("rule", REVOKE_RULES, ids=rule_name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_random_rows_agree_with_the_reference(dtype: torch.dtype, rule: dict[str, Any]) -> None:
    for length in (1, 7, 63, 64, 65, 200):  # around one lane group of the CPU code, and several
        assert_as_reference(*rows(24, length, seed=length, dtype=dtype), **rule)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8], ids=str)
def test_limits_per_row(dtype: torch.dtype) -> None:
    limits = torch.arange(60).remainder(70).to(dtype)
    assert_as_reference(*rows(60, 90, seed=2), threshold=0.8, limit=limits)
    assert_as_reference(*rows(60, 90, seed=3), threshold=0.8, limit=limits.repeat_interleave(2)[::2])


def test_rows_without_tokens_or_positions() -> None:
    masks = torch.full((2, 5), MASK)
    assert revoke_(masks, torch.zeros(2, 5), mask_id=MASK, threshold=1.0, limit=5).tolist() == [0, 0]
    for shape in ((0, 5), (3, 0)):
        none = torch.zeros(shape, dtype=torch.int64)
        assert revoke_(none, torch.zeros(shape), mask_id=MASK, threshold=1.0, limit=5).tolist() == [0] * shape[0]


def test_order_least_first_then_lowest_position_and_neither_nan_nor_the_threshold_itself() -> None:
    confidence = torch.tensor([[NAN, 0.5, INF, 0.25, -INF, 0.5, 0.75]])
    tokens = torch.zeros(1, 7, dtype=torch.int64)
    order = []
    while True:
        before = tokens.clone()
        if not revoke_(tokens, confidence, mask_id=MASK, threshold=0.75, limit=1):
            break
        order.append(int((before != tokens).nonzero()[0, 1]))
    assert order == [4, 3, 1, 5]


def test_the_threshold_is_compared_in_float64() -> None:
    tenth = torch.full((1, 1), 0.1)  # 0.1 as float32 is above 0.1 as float64
    assert revoke_(torch.zeros(1, 1).long(), tenth, mask_id=MASK, threshold=0.1, limit=1).tolist() == [0]
    assert revoke_(torch.zeros(1, 1).long(), tenth, mask_id=MASK, threshold=float(tenth) + 1e-12, limit=1).tolist() == [
        1
    ]


CONFIDENCES = st.one_of(
    st.sampled_from([0.0, -0.0, 0.25, 0.5, 0.75, 1.0, NAN, INF, -INF]), st.floats(0, 1, width=32, allow_nan=False)
)


@settings(max_examples=400, deadline=None)
@given(
    confidence=st.lists(CONFIDENCES, max_size=70),
    masked=st.integers(min_value=0),
    threshold=st.one_of(st.sampled_from([0.0, 0.5]), st.floats(-1, 2)),
    limit=st.integers(0, 75),
)
def test_the_chosen_are_the_least_of_those_below(
    confidence: list[float], masked: int, threshold: float, limit: int
) -> None:
    before = [MASK if masked >> j & 1 else j for j in range(len(confidence))]
    tokens = torch.tensor([before], dtype=torch.int64)
    values = torch.tensor([confidence], dtype=torch.float32)
    number = int(revoke_(tokens, values, mask_id=MASK, threshold=threshold, limit=limit))
    scores = values[0].tolist()
    below = [j for j, token in enumerate(before) if token != MASK and scores[j] < threshold]
    chosen = sorted(below, key=lambda j: (scores[j], j))[:limit]
    assert number == len(chosen)
    assert not any(math.isnan(scores[j]) for j in chosen)
    assert tokens[0].tolist() == [MASK if j in chosen else token for j, token in enumerate(before)]


def test_strides_and_gradients() -> None:
    tokens, confidence = rows(40, 60, seed=4)
    for view in (lambda t: t[:, 11:43], lambda t: t[::2, ::3], lambda t: t.t()):
        whole, expected = tokens.clone(), tokens.clone()
        reference.revoke_(view(expected), view(confidence), mask_id=MASK, threshold=0.6, limit=4)
        revoked = revoke_(view(whole), view(confidence.requires_grad_()), mask_id=MASK, threshold=0.6, limit=4)
        assert torch.equal(whole, expected)
        assert not revoked.requires_grad


BAD_INPUT: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "tokens-type": ({"tokens": [[1]]}, TypeError, "tokens must be a tensor"),
    "tokens-dtype": ({"tokens": torch.zeros(3, 8)}, TypeError, "tokens must be int64"),
    "tokens-shape": ({"tokens": torch.zeros(8).long()}, ValueError, r"tokens must be \[B, L\], got \[8\]"),
    "confidence-dtype": ({"confidence": torch.zeros(3, 8).long()}, TypeError, "confidence must be floating"),
    "confidence-shape": ({"confidence": torch.zeros(2, 8)}, ValueError, r"confidence must be \[3, 8\]"),
    "device": ({"confidence": torch.zeros(3, 8, device="meta")}, ValueError, "confidence must be on cpu"),
    "mask-id": ({"mask_id": 1.0}, TypeError, "mask_id must be an int"),
    "threshold-type": ({"threshold": "0.9"}, TypeError, "threshold must be a float"),
    "threshold-none": ({"threshold": None}, TypeError, "threshold must be a float, got NoneType"),
    "threshold-nan": ({"threshold": NAN}, ValueError, "threshold must be finite"),
    "limit-type": ({"limit": 1.5}, TypeError, "limit must be an int.*float"),
    "limit-negative": ({"limit": -1}, ValueError, "limit must not be negative, got -1"),
    "limits-dtype": ({"limit": torch.ones(3)}, TypeError, "limit must be an int.*float32"),
    "limits-shape": ({"limit": torch.ones(2).long()}, ValueError, r"limit must be \[3\]"),
    "limits-negative": ({"limit": torch.tensor([1, -2, 0])}, ValueError, "limit must not be negative, got -2"),
}


@pytest.mark.cpu_only("messages name the CPU, and on a GPU negative counts are taken for 0")
@pytest.mark.parametrize("case", BAD_INPUT)
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "reference"])
def test_bad_input_is_refused_and_nothing_written(case: str, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    changes, error, message = BAD_INPUT[case]
    if not compiled:
        monkeypatch.setattr(extension, "_module", None)
    tokens, confidence = rows(3, 8)
    named = {"tokens": tokens, "confidence": confidence, "mask_id": MASK, "threshold": 0.5, "limit": 2} | changes
    assert_refused(revoke_, named, error, f"revoke_: {message}")


@pytest.mark.cpu_only("messages name the CPU, and on a GPU negative counts are taken for 0")
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"limit": None}, ValueError),
        ({"limits": torch.tensor([1, 1, 1])}, ValueError),
        ({"limit": None, "limits": torch.tensor([1, 1, -1])}, ValueError),
        ({"limit": -1}, ValueError),
        ({"threshold": NAN}, ValueError),
        ({"confidence": torch.zeros(3, 8, dtype=torch.bfloat16)}, ValueError),
    ],
    ids=str,
)
def test_the_operator_checks_what_it_is_given(arguments: dict[str, Any], error: type[Exception]) -> None:
    tokens, confidence = rows(3, 8)
    named = {"tokens": tokens, "confidence": confidence, "mask_id": MASK, "threshold": 0.5, "limit": 2} | arguments
    with pytest.raises(error, match="revoke_"):
        torch.ops.dmpo.revoke_(**named)


@pytest.mark.parametrize("rule", [{"limit": 3}, {"limits": torch.tensor([1, 0, 9])}], ids=["limit", "limits"])
def test_opcheck(rule: dict[str, Any], device: torch.device) -> None:
    tokens, confidence = rows(3, 20)
    torch.library.opcheck(
        torch.ops.dmpo.revoke_.default, (tokens, confidence, MASK, 0.6), rule | tensors_on(rule, device)
    )


@pytest.mark.parametrize("limit", [3, torch.tensor([1, 0, 9])], ids=["int", "tensor"])
def test_compiles_into_one_graph(limit: int | Tensor, device: torch.device) -> None:
    limit = limit.to(device) if isinstance(limit, Tensor) else limit

    def step(tokens: Tensor, confidence: Tensor) -> tuple[Tensor, Tensor]:
        revoked = revoke_(tokens, confidence.square(), mask_id=MASK, threshold=0.5, limit=limit)
        return revoked, (tokens == MASK).sum(-1)

    tokens, confidence = rows(3, 20)
    expected, actual = tokens.clone(), tokens.clone()
    revoked, masks = step(expected, confidence)
    compiled_revoked, compiled_masks = torch.compile(step, fullgraph=True, backend="aot_eager")(actual, confidence)
    assert torch.equal(actual, expected)
    assert torch.equal(compiled_revoked, revoked)
    assert torch.equal(compiled_masks, masks)


@pytest.mark.cpu_only("the Python reference")
def test_a_missing_extension_is_logged_once_and_changes_no_result(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tokens, confidence = rows(10, 30)
    expected = tokens.clone()
    expected_revoked = revoke_(expected, confidence, mask_id=MASK, threshold=0.6, limit=4)
    monkeypatch.setattr(extension, "_module", None)
    monkeypatch.setattr(extension, "_status", "dmpo._C was left out by a test of revoke_")
    with caplog.at_level(logging.WARNING, logger="dmpo"):
        for _ in range(2):
            actual = tokens.clone()
            revoked = revoke_(actual, confidence, mask_id=MASK, threshold=0.6, limit=4)
    assert [record.message for record in caplog.records] == [
        "revoke_ runs its slow Python reference: dmpo._C was left out by a test of revoke_"
    ]
    assert torch.equal(actual, expected)
    assert torch.equal(revoked, expected_revoked)
