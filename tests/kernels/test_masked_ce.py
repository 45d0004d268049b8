"""If these fail, the loss from logits or its gradient is wrong, or a row that should be dead costs something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from dmpo.kernels import masked_token_logprobs, reference, weighted_masked_ce
from tests.kernels.kernel_oracle import FLOATS, assert_as_exact_as_torch, both_paths, gradient_of, value_and_grads
from tests.kernels.logit_problems import inputs

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.*"),  # NaN and inf on purpose, through numpy
    pytest.mark.usefixtures("device"),
]
NAN, INF = float("nan"), float("inf")
SHAPES = [
    (1, 1, 1),  # nothing to choose from
    (2, 3, 7),  # no 16-byte access fits
    (3, 5, 128),  # one whole block
    (2, 3, 1000),  # aligned rows, a masked tail
    (1, 3, 8195),  # more than one block, odd: rows start unaligned
    (1, 3, 126464),  # LLaDA
]


def compare(
    ours: Callable[..., Tensor],
    exact: Callable[..., Tensor],
    logits: Tensor,
    upstream: Tensor | None = None,
    scale: float = 1.0,
) -> None:
    """`ours` on `logits` against `exact` in float32 and float64; the float32 gradient rounded to the logits' dtype."""
    mine = value_and_grads(ours, logits, upstream=upstream)
    plain = value_and_grads(exact, logits, upstream=upstream)  # the reference widens
    oracle = value_and_grads(exact, logits.double(), upstream=upstream)
    assert mine[1].dtype == logits.dtype
    assert_as_exact_as_torch(mine, plain, oracle, scale)


@both_paths
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_log_probs_and_gradient(path: str, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    logits, targets, mask = inputs(*shape, dtype)
    upstream = torch.randn(shape[1], shape[0], generator=torch.Generator().manual_seed(1)).t()  # not contiguous
    compare(
        lambda x: masked_token_logprobs(x, targets, mask),
        lambda x: reference.masked_token_logprobs(x, targets, mask),
        logits,
        upstream,
        scale=float(upstream.abs().max()),
    )


@both_paths
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(4, 5, 7), (4, 3, 1000)])
@pytest.mark.parametrize("first", [1.5, 1e6])
def test_weighted_loss(path: str, first: float, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    logits, targets, mask = inputs(*shape, dtype)
    mask[1], mask[2], mask[3] = False, True, False  # none masked, all masked, m = 1
    mask[3, 2] = True
    logits[mask] = torch.where(logits[mask].isnan(), 1.5, logits[mask])
    targets[mask] = targets[mask].clamp(min=0)
    weights, baseline = torch.tensor([first, 3.0, -2.0, 0.5]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    for b, s in ((None, 1.0), (baseline, 1.0), (baseline, 0.3)):
        nll, plain_nll, exact_nll = (
            op(x, targets, mask, weights, b, s)[1]
            for op, x in (
                (weighted_masked_ce, logits),
                (reference.weighted_masked_ce, logits),
                (reference.weighted_masked_ce, logits.double()),
            )
        )
        assert_as_exact_as_torch([nll], [plain_nll], [exact_nll])
        mine, plain, exact = (
            value_and_grads(lambda x, op=op, b=b, s=s: op(x, targets, mask, weights, b, s)[0], x)
            for op, x in (
                (weighted_masked_ce, logits),
                (reference.weighted_masked_ce, logits),
                (reference.weighted_masked_ce, logits.double()),
            )
        )
        a = weights if b is None else weights - s * b
        terms = float((a * exact_nll).abs().max())  # they may cancel in the loss
        assert_as_exact_as_torch(mine[:1], plain[:1], exact[:1], terms)
        assert mine[1].dtype == dtype
        for n in range(shape[0]):  # a row with a huge weight must not widen what another is allowed
            assert_as_exact_as_torch([mine[1][n]], [plain[1][n]], [exact[1][n]], float(a[n].abs()))


@both_paths
def test_rows_with_coefficient_zero_are_not_looked_at(path: str) -> None:
    logits, targets, mask = inputs(3, 4, 50)
    mask[:] = True
    targets.clamp_(min=0)
    logits[0], logits[1], logits[2] = NAN, NAN, 1.0
    for weights, baseline in ((torch.tensor([0.0, 0.0, 2.0]), None), (torch.tensor([0.7, 0.1, 2.0]),) * 2):
        if baseline is not None:
            baseline = torch.tensor([0.7, 0.1, 1.0])
        logits.requires_grad_(True).grad = None
        loss, nll = weighted_masked_ce(logits, targets, mask, weights, baseline)
        loss.backward()
        assert torch.equal(nll[:2], torch.zeros(2))
        assert loss.isfinite()
        assert torch.equal(gradient_of(logits)[:2], torch.zeros(2, 4, 50))
        assert not nll.requires_grad


@both_paths
@pytest.mark.parametrize("dtype", FLOATS)
def test_large_values(path: str, dtype: torch.dtype) -> None:
    """x - (max + log Σ) has no digits left here; (x - max) - log Σ has them all."""
    logits, targets, _ = inputs(2, 3, 515, dtype)
    logits = (logits.nan_to_num(0.0).float() * 2.0).to(dtype)
    logits[..., ::2] += 1e4
    logits[..., 1::2] -= 1e4
    targets = (targets.clamp(min=0) // 2 * 2).clamp(max=513)
    compare(lambda x: masked_token_logprobs(x, targets), lambda x: reference.masked_token_logprobs(x, targets), logits)


@both_paths
def test_infinite_and_nan_entries_stay_in_their_row(path: str) -> None:
    logits, targets, _ = inputs(1, 7, 300)
    logits = logits.nan_to_num(0.5)
    targets = targets.clamp(min=0)
    logits[0, 0, 5:] = -INF  # forbidden tokens
    targets[0, 0] = 3
    logits[0, 1, targets[0, 1]] = -INF  # a forbidden target
    logits[0, 2] = -INF
    logits[0, 3, 17] = NAN
    logits[0, 4, 17] = INF
    logits[0, 5, 299] = 1e30
    sound = [0, 1, 5, 6]
    compare(
        lambda x: masked_token_logprobs(x, targets[:, sound]),
        lambda x: reference.masked_token_logprobs(x, targets[:, sound]),
        logits[:, sound],
    )
    out, grad = value_and_grads(lambda x: masked_token_logprobs(x, targets), logits)
    assert out[0].isnan().tolist() == [False, False, True, True, True, False, False]
    assert grad[0, 2:5].isnan().any(dim=-1).all()
    assert grad[0, sound].isfinite().all()


@both_paths
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, 1:, :-3],  # row stride above V, unaligned start
        lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),  # positions first
        lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),  # last dimension not contiguous
        lambda x: x[:1].expand(2, -1, -1),
    ],
)
def test_any_strides(path: str, view: Callable[[Tensor], Tensor]) -> None:
    g = torch.Generator().manual_seed(0)
    whole = torch.randn(2, 5, 203, generator=g)
    shape = view(whole).shape
    targets = torch.randint(0, shape[2], shape[:2], generator=g)
    mask = torch.rand(shape[:2], generator=g) < 0.7
    weights = torch.tensor([2.0, -1.0])
    for ours, exact in (
        (masked_token_logprobs, reference.masked_token_logprobs),
        (
            lambda x, t, m: weighted_masked_ce(x, t, m, weights)[0],
            lambda x, t, m: reference.weighted_masked_ce(x, t, m, weights)[0],
        ),
    ):
        compare(lambda x, f=ours: f(view(x), targets, mask), lambda x, f=exact: f(view(x), targets, mask), whole)


@both_paths
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_small_problem(path: str, data: Any) -> None:
    """Over random sizes: the oracle's values; gradient rows sum to 0; the loss is linear in the weights."""
    count, length = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 4))
    vocab, seed = data.draw(st.integers(1, 40)), data.draw(st.integers(0, 99))
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, length, vocab, generator=g) * data.draw(st.sampled_from([0.0, 1.0, 30.0]))
    targets = torch.randint(0, vocab, (count, length), generator=g)
    mask = torch.rand(count, length, generator=g) < data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    weights = torch.randn(2, count, generator=g)
    compare(
        lambda x: masked_token_logprobs(x, targets, mask),
        lambda x: reference.masked_token_logprobs(x, targets, mask),
        logits,
    )
    losses = [weighted_masked_ce(logits, targets, mask, w)[0] for w in (weights[0], weights[1], weights.sum(0))]
    torch.testing.assert_close(losses[0] + losses[1], losses[2], rtol=1e-4, atol=1e-4)
    grad = value_and_grads(lambda x: weighted_masked_ce(x, targets, mask, weights[0])[0], logits)[1]
    torch.testing.assert_close(grad.sum(-1), torch.zeros(count, length), rtol=0, atol=1e-5)


def test_float64_is_computed_in_float64() -> None:
    logits, targets, mask = inputs(2, 3, 11, torch.float64)
    x = logits.nan_to_num(0.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: masked_token_logprobs(x, targets, mask), x)
    assert torch.autograd.gradcheck(lambda x: weighted_masked_ce(x, targets, mask, torch.tensor([2.0, -1.0]))[0], x)
