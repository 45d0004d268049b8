"""If these fail, the loss from hidden states or its gradient is wrong, or logits are held that should not be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks.meter import measure
from dmpo.kernels import launch, linear_ce_sweep, linear_ce_tiles, linear_token_logprobs, linear_weighted_ce, reference
from tests.kernels.kernel_oracle import FLOATS, assert_as_exact_as_torch, both_paths, value_and_grads

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.*")
NAN, INF = float("nan"), float("inf")
HEADS = ["frozen", "trainable", "head only"]
LIMITS = [
    None,
    40_000,  # several tiles, whole rows do not fit
    3_000,  # a few rows of a few columns at a time
]


def problem(
    rows: int, vocab: int, size: int, dtype: torch.dtype = torch.float32, scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden [rows, size], weight [vocab, size], bias [vocab], targets [rows]."""
    g = torch.Generator().manual_seed(vocab)
    hidden, weight, bias = (
        torch.randn(shape, generator=g).to(dtype) for shape in ((rows, size), (vocab, size), (vocab,))
    )
    return (hidden * scale).to(dtype), weight, bias, torch.randint(0, vocab, (rows,), generator=g)


def compare(
    run: Callable[..., Any],
    exact: Callable[..., Any],
    head: str,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: float,
) -> None:
    """Value and gradients of `run(hidden, weight, bias)` against `exact` in float32 and float64."""
    trained = {"frozen": [hidden], "trainable": [hidden, weight, bias], "head only": [weight, bias]}[head]
    leaves = [x for x in trained if x is not None]

    def call(fn: Callable[..., Any], wide: bool) -> Callable[..., Tensor]:
        def of_leaves(*given: Tensor) -> Tensor:
            names = dict(zip((id(x) for x in leaves), given, strict=True))
            all3 = (None if x is None else names.get(id(x), x.double() if wide else x) for x in (hidden, weight, bias))
            return fn(*all3)

        return of_leaves

    probe = call(exact, False)(*leaves)
    upstream = torch.randn(probe.shape, generator=torch.Generator().manual_seed(3))
    mine = value_and_grads(call(run, False), *leaves, upstream=upstream)
    plain = value_and_grads(call(exact, False), *leaves, upstream=upstream)
    oracle = value_and_grads(call(exact, True), *(x.double() for x in leaves), upstream=upstream)
    assert [x.dtype for x in mine[1:]] == [x.dtype for x in leaves]
    assert_as_exact_as_torch(mine, plain, oracle, scale)


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


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("factor", "upstream"), [(1.0, 1.0), (1e-4, 1.0), (1e-6, 1e6), (1e6, 1e-5), (0.0, 1.0)])
def test_half_precision_operands_as_on_a_gpu(
    dtype: torch.dtype, factor: float, upstream: float, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a GPU keeps half-precision operands; here its products are played by float32 ones. Probabilities are then
    rounded to the operands' dtype, and the error is that of one such rounding of each term, whatever the size of the
    rows' factors."""
    monkeypatch.setattr(linear_ce_tiles, "head_of", lambda h, w, b: linear_ce_tiles.Head(w, b, h.dtype))
    monkeypatch.setattr(linear_ce_tiles, "product", lambda a, b, out: torch.mm(a.float(), b.float(), out=out))
    rows, vocab, size = 6, 1003, 20
    hidden, weight, bias, targets = problem(rows, vocab, size, dtype, scale=2.0)
    mask, weights = torch.ones(1, rows, dtype=torch.bool), torch.full((1,), factor * rows)
    names = {"frozen": [0], "trainable": [0, 1, 2], "head only": [1, 2]}[head]

    def token(h: Tensor, w: Tensor, b: Tensor, limit: int | None) -> Tensor:
        return -factor * linear_token_logprobs(h, w, targets, bias=b, max_logits_bytes=limit).sum()

    def weighted(h: Tensor, w: Tensor, b: Tensor, limit: int | None) -> Tensor:
        return linear_weighted_ce(h[None], w, targets[None], mask, weights, bias=b, max_logits_bytes=limit)[0]

    wide = [x.double().requires_grad_(i in names) for i, x in enumerate((hidden, weight, bias))]
    total = factor * upstream
    (-total * reference.linear_token_logprobs(*wide[:2], targets, bias=wide[2]).sum()).backward()
    for run in (token, weighted):
        for limit in (None, 20_000):
            leaves = [x.detach().clone().requires_grad_(i in names) for i, x in enumerate((hidden, weight, bias))]
            with launch.plain_path(False):
                (upstream * run(*leaves, limit)).backward()
            for i in names:
                mine, exact = leaves[i].grad.double(), wide[i].grad
                largest = max(total, float(exact.abs().max()))
                smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
                assert (mine - exact).abs().max() <= 4 * torch.finfo(dtype).eps * largest + smallest / 2


@both_paths
def test_strided_arguments(path: str) -> None:
    """A column of the ids, and hidden states and a head that lie transposed."""
    hidden, weight, _, targets = problem(9, 1003, 20)
    ids = torch.stack([torch.zeros_like(targets), targets], 1)
    compare(
        lambda h, w, _: linear_token_logprobs(h.t().contiguous().t(), w.t().contiguous().t(), ids[:, 1]),
        lambda h, w, _: reference.linear_token_logprobs(h, w, targets),
        "trainable", hidden, weight, None, scale=8.0,
    )  # fmt: skip
    want = linear_token_logprobs(hidden, weight, targets)
    assert torch.equal(linear_token_logprobs(hidden, weight, ids[:, 1]), want)


@both_paths
@pytest.mark.parametrize("limit", [None, 20_000])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("weight_of_row", "upstream"), [(1e-7, 65536.0), (1e6, 1e-6)])
def test_gradients_are_rounded_after_the_upstream_scalar(
    path: str, weight_of_row: float, upstream: float, head: str, limit: int | None
) -> None:
    """float16, one factor outside its range and the other inside: what torch.amp.GradScaler is for."""
    hidden, weight, bias, targets = problem(6, 1003, 20, torch.float16)
    mask, weights = torch.ones(1, 6, dtype=torch.bool), torch.tensor([weight_of_row])
    names = {"frozen": [0], "trainable": [0, 1, 2], "head only": [1, 2]}[head]
    leaves = [x.clone().requires_grad_(i in names) for i, x in enumerate((hidden, weight, bias))]
    wide = [x.detach().double().requires_grad_(i in names) for i, x in enumerate(leaves)]
    rest = (targets[None], mask, weights)
    h, w, b = leaves
    (linear_weighted_ce(h[None], w, *rest, bias=b, max_logits_bytes=limit)[0] * upstream).backward()
    h, w, b = wide
    (reference.linear_weighted_ce(h[None], w, *rest, bias=b)[0] * upstream).backward()
    for i in names:
        mine, exact = leaves[i].grad.double(), wide[i].grad
        # one rounding of each value: half an ulp, or half the smallest float16 below its normal numbers
        allowed = exact.abs() * 2.0**-11 + 2.0**-25 + 1e-5 * exact.abs().max()
        assert ((mine - exact).abs() <= allowed).all()


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


def test_one_logit_at_a_time() -> None:
    """The smallest bound there is."""
    hidden, weight, bias, targets = problem(2, 5, 3)
    with launch.plain_path():
        for head in HEADS:
            compare(
                lambda h, w, b: linear_token_logprobs(h, w, targets, bias=b, max_logits_bytes=1),
                lambda h, w, b: reference.linear_token_logprobs(h, w, targets, bias=b),
                head, hidden, weight, bias, scale=8.0,
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


def test_flops_and_memory_of_each_walk() -> None:
    """FLOPs of a row over H·V: 2 without gradients, 4 with a frozen head, 6 (weighted) or 8 with a trainable one."""
    rows, vocab, size = 64, 8000, 16
    unit = rows * vocab * size
    hidden, weight, _, targets = problem(rows, vocab, size)
    mask, weights, limit = torch.ones(1, rows, dtype=torch.bool), torch.ones(1), 300_000

    def token() -> Tensor:
        return linear_token_logprobs(hidden, weight, targets, max_logits_bytes=limit).sum()

    def weighted(limit: int | None = limit) -> Tensor:
        return linear_weighted_ce(hidden[None], weight, targets[None], mask, weights, max_logits_bytes=limit)[0]

    with launch.plain_path():
        token()
        assert measure(token).flops == pytest.approx(2 * unit, rel=0.02)
        hidden.requires_grad_()
        for loss in (token, weighted):
            found = measure(lambda loss=loss: loss().backward())
            assert found.flops == pytest.approx(4 * unit, rel=0.02)
            assert found.peak_bytes < limit + 8 * rows * (size + 16) * 4, "more than one piece of logits"
        weight.requires_grad_()
        assert measure(lambda: token().backward()).flops == pytest.approx(8 * unit, rel=0.02)
        assert measure(lambda: weighted(None).backward()).flops == pytest.approx(6 * unit, rel=0.02)
        assert measure(lambda: weighted().backward()).flops == pytest.approx(8 * unit, rel=0.02)


@both_paths
def test_skipped_tiles_cost_less_and_err_no_more_than_promised(path: str) -> None:
    """A peaked distribution: some tiles hold nothing. Log-probs stay, the gradient is off by the bound at most."""
    hidden, weight, _, targets = problem(8, 4000, 16, scale=6.0)
    threshold = 1e-4
    exact = value_and_grads(lambda h: linear_token_logprobs(h, weight, targets, max_logits_bytes=8 * 400), hidden)
    skipped: list[bool] = []
    decide = linear_ce_sweep._negligible

    def spy(*arguments: Any) -> bool:
        skipped.append(decide(*arguments))
        return skipped[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear_ce_sweep, "_negligible", spy)
        some = value_and_grads(
            lambda h: linear_token_logprobs(h, weight, targets, max_logits_bytes=8 * 400, skip_below=threshold), hidden
        )
    assert 0.1 < sum(skipped) / len(skipped) < 1
    assert torch.equal(some[0], exact[0])
    bound = threshold * weight.abs().sum(0).max()
    assert 0 < (some[1] - exact[1]).abs().max() <= bound


N, L, H, V = 2, 3, 4, 5
GOOD: dict[str, Any] = {
    "hidden": torch.zeros(N, L, H),
    "weight": torch.zeros(V, H),
    "targets": torch.zeros(N, L, dtype=torch.int64),
    "mask": torch.ones(N, L, dtype=torch.bool),
    "weights": torch.ones(N),
    "bias": torch.zeros(V),
}


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
        ("skip_below", -1.0, ValueError),
    ],
)
def test_bad_input_names_the_argument(path: str, name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{name}: got .*want"):
        linear_weighted_ce(**GOOD | {name: value})


def test_targets_of_every_row_are_checked() -> None:
    with pytest.raises(ValueError, match="targets: got"):
        linear_token_logprobs(torch.zeros(3, H), torch.zeros(V, H), torch.tensor([0, 1, -100]))
