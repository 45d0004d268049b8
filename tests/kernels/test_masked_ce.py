"""If these fail, the loss from logits or its gradient is wrong, or a row that should be dead costs something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.meter import measure
from dmpo.kernels import launch, masked_token_logprobs, reference, weighted_masked_ce
from tests.kernels.kernel_oracle import FLOATS, assert_as_exact_as_torch, both_paths, value_and_grads

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.*")  # NaN and inf on purpose, through numpy
NAN, INF = float("nan"), float("inf")
SHAPES = [
    (1, 1, 1),  # nothing to choose from
    (2, 3, 7),  # no 16-byte access fits
    (3, 5, 128),  # one whole block
    (2, 3, 1000),  # aligned rows, a masked tail
    (1, 3, 8195),  # more than one block, odd: rows start unaligned
    (1, 3, 126464),  # LLaDA
]


def inputs(count: int, length: int, vocab: int, dtype: torch.dtype = torch.float32, scale: float = 4.0) -> list[Tensor]:
    """Logits, targets and mask; at least one masked row, and unmasked ones full of NaN with target -100."""
    g = torch.Generator().manual_seed(count * 1000 + vocab)
    logits = (torch.randn(count, length, vocab, generator=g) * scale).to(dtype)
    targets = torch.randint(0, vocab, (count, length), generator=g)
    mask = torch.rand(count, length, generator=g) < 0.6
    mask[0, 0] = True
    logits[~mask], targets[~mask] = NAN, -100
    return [logits, targets, mask]


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
        assert torch.equal(logits.grad[:2], torch.zeros(2, 4, 50))
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
        (lambda *a: weighted_masked_ce(*a, weights)[0], lambda *a: reference.weighted_masked_ce(*a, weights)[0]),
    ):
        compare(lambda x, f=ours: f(view(x), targets, mask), lambda x, f=exact: f(view(x), targets, mask), whole)


@both_paths
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("contiguous", [True, False])
def test_inplace_backward(path: str, dtype: torch.dtype, contiguous: bool) -> None:
    logits, targets, mask = inputs(2, 3, 133, dtype)
    weights = torch.tensor([1.0, -0.5])

    def runs(inplace: bool) -> list[Callable[[Tensor], Tensor]]:
        return [
            lambda x: masked_token_logprobs(x, targets, mask, inplace_backward=inplace),
            lambda x: weighted_masked_ce(x, targets, mask, weights, inplace_backward=inplace)[0],
        ]

    for plain, inplace in zip(runs(False), runs(True), strict=True):
        want = value_and_grads(plain, logits)[1]
        source = logits.clone().requires_grad_()
        x = source * 1 if contiguous else source.transpose(1, 2).contiguous().transpose(1, 2)
        where: list[int] = []
        x.register_hook(lambda g, into=where: into.append(g.data_ptr()))
        out = inplace(x).sum()
        out.backward(retain_graph=True)
        assert torch.equal(source.grad, want)
        assert where == [x.data_ptr()], "the gradient does not live in the logits' memory"
        with pytest.raises(RuntimeError, match="inplace_backward"):
            out.backward()


@both_paths
def test_inplace_backward_is_noticed_by_others(path: str) -> None:
    """An op that kept the logits for its own backward must not silently see gradients there."""
    logits, targets, mask = inputs(1, 3, 20)
    x = logits.nan_to_num(0.0).requires_grad_().exp()
    out = masked_token_logprobs(x, targets, mask, inplace_backward=True).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


@both_paths
def test_backward_twice_and_inputs_untouched(path: str) -> None:
    logits, targets, mask = inputs(2, 3, 77)
    x = logits.clone().requires_grad_()
    out = masked_token_logprobs(x, targets, mask)
    first, second = (torch.autograd.grad(out, x, torch.ones_like(out), retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(x.detach().nan_to_num(9.0), logits.nan_to_num(9.0))
    with torch.no_grad():
        assert torch.equal(masked_token_logprobs(x, targets, mask), out)


@both_paths
def test_rows_beyond_two_to_the_31(path: str) -> None:
    """Offsets are int64: two rows 2^31 elements apart (address space, not memory)."""
    vocab, far = 40, 2**31
    whole = torch.empty(far + vocab, dtype=torch.bfloat16)
    logits = whole.as_strided((2, 1, vocab), (far, vocab, 1))
    logits[:] = torch.randn(2, 1, vocab, generator=torch.Generator().manual_seed(0)).bfloat16()
    targets = torch.tensor([[3], [39]])
    small = logits.contiguous()
    assert torch.equal(masked_token_logprobs(logits, targets), masked_token_logprobs(small, targets))
    want = value_and_grads(lambda x: masked_token_logprobs(x, targets), small)[1]
    x = logits.detach().requires_grad_()
    masked_token_logprobs(x, targets, inplace_backward=True).sum().backward()
    assert torch.equal(logits.detach().contiguous(), want)


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


def test_plain_path_holds_live_rows_only() -> None:
    """Forward: a bounded copy of the two live rows of 512; backward: the gradient itself and that."""
    logits = torch.randn(8, 64, 4096)
    targets, mask = torch.zeros(8, 64, dtype=torch.int64), torch.zeros(8, 64, dtype=torch.bool)
    mask[1, 1] = mask[5, 60] = True
    with launch.plain_path():
        masked_token_logprobs(logits, targets, mask)
        forward = measure(lambda: masked_token_logprobs(logits, targets, mask)).peak_bytes
        x = logits.requires_grad_()
        both = measure(lambda: masked_token_logprobs(x, targets, mask).sum().backward()).peak_bytes
    row = 4096 * 4
    assert forward < 8 * row
    assert both < 512 * row + 16 * row


N, L, V = 2, 3, 5
GOOD: dict[str, Any] = {
    "logits": torch.zeros(N, L, V),
    "targets": torch.zeros(N, L, dtype=torch.int64),
    "mask": torch.ones(N, L, dtype=torch.bool),
    "weights": torch.ones(N),
    "baseline": torch.ones(N),
    "strength": 1.0,
}


@both_paths
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("logits", [[[1.0]]], TypeError),
        ("logits", torch.zeros(N, L, V).to_sparse(), TypeError),
        ("logits", torch.zeros(N, V), ValueError),
        ("logits", torch.zeros(N, L, 0), ValueError),
        ("logits", torch.zeros(N, L, V, dtype=torch.int64), ValueError),
        ("logits", torch.zeros(N, L, V, dtype=torch.complex64), ValueError),
        ("targets", torch.zeros(N, L + 1, dtype=torch.int64), ValueError),
        ("targets", torch.zeros(N, L, dtype=torch.int32), ValueError),
        ("targets", torch.zeros(N, L, dtype=torch.int64, device="meta"), ValueError),
        ("targets", torch.full((N, L), V), ValueError),
        ("targets", torch.full((N, L), -1), ValueError),
        ("mask", torch.ones(N, dtype=torch.bool), ValueError),
        ("mask", torch.ones(N, L), ValueError),
        ("mask", "all", TypeError),
        ("weights", torch.ones(N + 1), ValueError),
        ("weights", torch.ones(N, dtype=torch.int64), ValueError),
        ("weights", torch.tensor([1.0, NAN]), ValueError),
        ("weights", torch.tensor([1.0, INF]), ValueError),
        ("weights", torch.ones(N, requires_grad=True), ValueError),
        ("weights", 1.0, TypeError),
        ("baseline", torch.ones(N, 1), ValueError),
        ("baseline", torch.tensor([1.0, -INF]), ValueError),
        ("strength", NAN, ValueError),
        ("strength", "1", TypeError),
    ],
)
def test_bad_input_names_the_argument(path: str, name: str, value: Any, error: type[Exception]) -> None:
    arguments = GOOD | {name: value}
    with pytest.raises(error, match=f"^{name}: got .*want"):
        weighted_masked_ce(**arguments)
    if name in ("logits", "targets", "mask"):
        with pytest.raises(error, match=f"^{name}: got .*want"):
            masked_token_logprobs(*(arguments[key] for key in ("logits", "targets", "mask")))


def test_inplace_backward_refuses_expanded_logits() -> None:
    with pytest.raises(ValueError, match="inplace_backward"):
        masked_token_logprobs(torch.zeros(1, L, V).expand(N, L, V), GOOD["targets"], inplace_backward=True)
