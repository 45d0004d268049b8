"""If these fail, the loss from hidden states or its gradient is wrong, or logits are held that should not be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dmpo.kernels import linear_token_logprobs, linear_weighted_ce, reference
from tests.kernels.kernel_oracle import FLOATS, assert_as_exact_as_torch, both_paths, value_and_grads
from tests.kernels.linear_problems import HEADS, PRODUCT_ROUNDINGS, compare, problem

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.*"),
    pytest.mark.usefixtures("device", "unwritten_is_nan"),
]
NAN, INF = float("nan"), float("inf")
LIMITS = [
    None,
    40_000,  # several tiles, whole rows do not fit
    3_000,  # a few rows of a few columns at a time
]


@both_paths
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_log_probs_and_gradients(path: str, dtype: torch.dtype, head: str, limit: int | None) -> None:
    for vocab, size, with_bias in ((1003, 20, True), (7, 3, False)):
        hidden, weight, bias, targets = problem(9, vocab, size, dtype)
        compare(
            lambda h, w, b, t=targets: linear_token_logprobs(h, w, t, bias=b, max_logits_bytes=limit),
            lambda h, w, b, t=targets: reference.linear_token_logprobs(h, w, t, bias=b),
            head, hidden, weight, bias if with_bias else None, scale=8.0,
        )  # fmt: skip


@both_paths
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_weighted_loss(path: str, dtype: torch.dtype, head: str, limit: int | None) -> None:
    """Rows with coefficient 0, without a mask, with one, with all; NaN and target -100 where nothing is masked."""
    hidden, weight, bias, targets = problem(5 * 4, 1003, 20, dtype)
    hidden, targets = hidden.view(5, 4, 20), targets.view(5, 4)
    mask = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1], [1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    hidden[~mask], targets[~mask] = NAN, -100
    weights, baseline = torch.tensor([1e3, 2.0, -1.0, 0.3, 0.5]), torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0])
    rest = (targets, mask, weights, baseline, 0.5)
    compare(
        lambda h, w, b: linear_weighted_ce(*(h, w, *rest), bias=b, max_logits_bytes=limit)[0],
        lambda h, w, b: reference.linear_weighted_ce(*(h, w, *rest), bias=b)[0],
        head, hidden, weight, bias, scale=1e4,
    )  # fmt: skip
    mine = linear_weighted_ce(hidden, weight, targets, mask, weights, baseline, 0.5, max_logits_bytes=limit)[1]
    wide = reference.linear_weighted_ce(hidden.double(), weight.double(), targets, mask, weights, baseline, 0.5)[1]
    plain = reference.linear_weighted_ce(hidden, weight, targets, mask, weights, baseline, 0.5)[1]
    assert_as_exact_as_torch([mine], [plain], [wide])
    assert mine[4] == 0
    assert not mine.requires_grad


@both_paths
def test_strided_arguments(path: str, device: torch.device) -> None:
    """A column of the ids, and hidden states and a head that lie transposed: on a GPU another product, with another
    order of its sums."""
    hidden, weight, _, targets = problem(9, 1003, 20)
    ids = torch.stack([torch.zeros_like(targets), targets], 1)
    compare(
        lambda h, w, _: linear_token_logprobs(h.t().contiguous().t(), w.t().contiguous().t(), ids[:, 1]),
        lambda h, w, _: reference.linear_token_logprobs(h, w, targets),
        "trainable", hidden, weight, None, scale=8.0, roundings=3 if device.type == "cpu" else PRODUCT_ROUNDINGS,
    )  # fmt: skip
    want = linear_token_logprobs(hidden, weight, targets)
    assert torch.equal(linear_token_logprobs(hidden, weight, ids[:, 1]), want)


@both_paths
def test_full_vocabulary(path: str) -> None:
    hidden, weight, _, targets = problem(4, 126464, 16)
    compare(
        lambda h, w, _: linear_token_logprobs(h, w, targets),
        lambda h, w, _: reference.linear_token_logprobs(h, w, targets),
        "frozen", hidden, weight, None, scale=8.0,
    )  # fmt: skip


@both_paths
@pytest.mark.parametrize("head", HEADS)
def test_large_logits_and_forbidden_tokens(path: str, head: str) -> None:
    """Logits of thousands; -inf through the bias, in the first tile throughout and at targets' neighbours."""
    hidden, weight, bias, targets = problem(6, 900, 24, scale=300.0)
    bias[:300] = -INF
    targets.clamp_(min=300)
    compare(
        lambda h, w, b: linear_token_logprobs(h, w, targets, bias=bias.to(h.dtype), max_logits_bytes=4000),
        lambda h, w, b: reference.linear_token_logprobs(h, w, targets, bias=bias.to(h.dtype)),
        head, hidden, weight, None, scale=8.0,
    )  # fmt: skip


@both_paths
def test_nan_stays_in_its_row(path: str) -> None:
    hidden, weight, _, targets = problem(5, 300, 8)
    hidden[2, 3] = NAN
    out, grad = value_and_grads(lambda h: linear_token_logprobs(h, weight, targets), hidden)
    sound = torch.tensor([0, 1, 3, 4])
    want = value_and_grads(lambda h: linear_token_logprobs(h, weight, targets[sound]), hidden[sound])
    assert out[2].isnan()
    assert grad[2].isnan().all()
    torch.testing.assert_close([out[sound], grad[sound]], want)
    # and where nothing depends on that row, its gradient is 0
    upstream = torch.ones(5)
    upstream[2] = 0.0
    grad = value_and_grads(lambda h: linear_token_logprobs(h, weight, targets), hidden, upstream=upstream)[1]
    assert torch.equal(grad[2], torch.zeros(8))


@both_paths
def test_tied_head_adds_up(path: str) -> None:
    """One tensor as embedding and head: both gradients reach it."""
    embedding = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    ids, targets = torch.tensor([[1, 2, 3]]), torch.tensor([[4, 2, 49]])
    mask, weights = torch.ones(1, 3, dtype=torch.bool), torch.ones(1)

    def run(fn: Callable[..., tuple[Tensor, Tensor]]) -> Callable[[Tensor], Tensor]:
        return lambda e: fn(nn.functional.embedding(ids, e).tanh(), e, targets, mask, weights)[0]

    mine, plain = (value_and_grads(run(fn), embedding) for fn in (linear_weighted_ce, reference.linear_weighted_ce))
    oracle = value_and_grads(run(reference.linear_weighted_ce), embedding.double())
    assert_as_exact_as_torch(mine, plain, oracle, 1.0)


@both_paths
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_small_problem(path: str, data: Any) -> None:
    rows, vocab, size = (data.draw(st.integers(low, high)) for low, high in ((0, 6), (1, 60), (1, 9)))
    limit = data.draw(st.sampled_from([100, 500, None]))
    head = data.draw(st.sampled_from(HEADS))
    hidden, weight, bias, targets = problem(rows, vocab, size)
    compare(
        lambda h, w, b: linear_token_logprobs(h, w, targets, bias=b, max_logits_bytes=limit),
        lambda h, w, b: reference.linear_token_logprobs(h, w, targets, bias=b),
        head, hidden, weight, bias, scale=16.0,
    )  # fmt: skip
    weights = torch.randn(rows, generator=torch.Generator().manual_seed(rows))
    mask = torch.ones(rows, 1, dtype=torch.bool)
    compare(
        lambda h, w, b: linear_weighted_ce(
            h[:, None], w, targets[:, None], mask, weights, bias=b, max_logits_bytes=limit
        )[0],
        lambda h, w, b: reference.linear_weighted_ce(h[:, None], w, targets[:, None], mask, weights, bias=b)[0],
        head, hidden, weight, bias, scale=16.0,
    )  # fmt: skip


def test_float64_is_computed_in_float64() -> None:
    hidden, weight, bias, targets = (x.double() if x.is_floating_point() else x for x in problem(4, 9, 3))
    mask, weights = torch.tensor([[True, False], [True, True]]), torch.tensor([1.0, -2.0])
    leaves = [x.requires_grad_() for x in (hidden, weight, bias)]
    assert torch.autograd.gradcheck(lambda h, w, b: linear_token_logprobs(h, w, targets, bias=b), leaves)
    assert torch.autograd.gradcheck(
        lambda h, w, b: linear_weighted_ce(h.view(2, 2, 3), w, targets.view(2, 2), mask, weights, bias=b)[0], leaves
    )
    assert torch.autograd.gradcheck(lambda h: linear_token_logprobs(h, weight.detach(), targets), leaves[:1])


@both_paths
@pytest.mark.parametrize("head", HEADS)
def test_backward_twice(path: str, head: str) -> None:
    hidden, weight, _, targets = problem(5, 300, 8)
    hidden.requires_grad_(head != "head only")
    weight.requires_grad_(head != "frozen")
    leaves = [x for x in (hidden, weight) if x.requires_grad]
    for out in (
        linear_token_logprobs(hidden, weight, targets).sum(),
        linear_weighted_ce(hidden[None], weight, targets[None], torch.ones(1, 5, dtype=torch.bool), torch.ones(1))[0],
    ):
        first, second = (torch.autograd.grad(out, leaves, retain_graph=True) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


N, L, H, V = 2, 3, 4, 5
GOOD: dict[str, Any] = {
    "hidden": torch.zeros(N, L, H),
    "weight": torch.zeros(V, H),
    "targets": torch.zeros(N, L, dtype=torch.int64),
    "mask": torch.ones(N, L, dtype=torch.bool),
    "weights": torch.ones(N),
    "bias": torch.zeros(V),
}


@pytest.mark.cpu_only("on a GPU, values are not checked")
@both_paths
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("hidden", None, TypeError),
        ("hidden", torch.zeros(N, H), ValueError),
        ("hidden", torch.zeros(N, L, H, dtype=torch.int32), ValueError),
        ("weight", nn.Linear(H, V), TypeError),
        ("weight", torch.zeros(V, H + 1), ValueError),
        ("weight", torch.zeros(0, H), ValueError),
        ("weight", torch.zeros(V, H, dtype=torch.bfloat16), ValueError),
        ("weight", torch.zeros(V, H, device="meta"), ValueError),
        ("targets", torch.full((N, L), V), ValueError),
        ("targets", torch.zeros(N, L), ValueError),
        ("mask", torch.ones(N, L + 1, dtype=torch.bool), ValueError),
        ("weights", torch.tensor([1.0, NAN]), ValueError),
        ("bias", torch.zeros(V + 1), ValueError),
        ("bias", torch.zeros(V, dtype=torch.int64), ValueError),
        ("max_logits_bytes", 0, ValueError),
        ("max_logits_bytes", 0.5, TypeError),
        ("max_logits_bytes", 1e6, TypeError),
        ("max_logits_bytes", True, TypeError),
        ("max_logits_bytes", "1MB", TypeError),
    ],
)
def test_bad_input_names_the_argument(path: str, name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{name}: got .*want"):
        linear_weighted_ce(**GOOD | {name: value})


@pytest.mark.cpu_only("on a GPU, values are not checked")
def test_targets_of_every_row_are_checked() -> None:
    with pytest.raises(ValueError, match="targets: got"):
        linear_token_logprobs(torch.zeros(3, H), torch.zeros(V, H), torch.tensor([0, 1, -100]))
