"""If these fail, a walk over the vocabulary holds or computes more than it says, or rounds where it should not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.counted.meter import measure
from dmpo.kernels import head as lm_head
from dmpo.kernels import launch, linear_token_logprobs, linear_weighted_ce, reference
from dmpo.kernels.linear_ce import tiles as linear_ce_tiles
from dmpo.kernels.linear_ce import triton_kernels as linear_ce_triton
from tests.kernels.kernel_oracle import both_paths, gradient_of
from tests.kernels.linear_problems import HEADS, assert_rounded_once, compare, keeps_half_precision, problem

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.*"),
    pytest.mark.usefixtures("unwritten_is_nan"),
]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("factor", "upstream"), [(1.0, 1.0), (1e-4, 1.0), (1e-6, 1e6), (1e6, 1e-5), (0.0, 1.0)])
def test_half_precision_operands_as_on_a_gpu(
    dtype: torch.dtype,
    factor: float,
    upstream: float,
    head: str,
    interpreter: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only a GPU keeps half-precision operands; here its products are played by float32 ones. Probabilities are then
    rounded to the operands' dtype, and the error is that of one such rounding of each term, whatever the size of the
    rows' factors."""
    monkeypatch.setattr(lm_head, "head_of", lambda h, w, b: lm_head.Head(w, b, h.dtype))
    monkeypatch.setattr(lm_head, "product", lambda a, b, out: torch.mm(a.float(), b.float(), out=out))
    monkeypatch.setattr(lm_head, "add_product", lambda into, a, b: into.addmm_(a.float(), b.float()))
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
    h, w, b = wide
    (-total * reference.linear_token_logprobs(h, w, targets, bias=b).sum()).backward()
    for run in (token, weighted):
        for limit, block in ((None, 8192), (20_000, 8192), (None, 128), (20_000, 128)):
            monkeypatch.setattr(linear_ce_triton, "BLOCK", block)
            monkeypatch.setattr(linear_ce_tiles, "TRITON_COLUMNS", block)  # 128: tiles are wider than a block
            leaves = [x.detach().clone().requires_grad_(i in names) for i, x in enumerate((hidden, weight, bias))]
            h, w, b = leaves
            (upstream * run(h, w, b, limit)).backward()
            for i in names:
                assert_rounded_once(gradient_of(leaves[i]), gradient_of(wide[i]), total)


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
        mine, exact = gradient_of(leaves[i]).double(), gradient_of(wide[i])
        if keeps_half_precision(hidden):
            assert_rounded_once(gradient_of(leaves[i]), exact, weight_of_row * upstream)
            continue
        # one rounding of each value: half an ulp, or half the smallest float16 below its normal numbers
        allowed = exact.abs() * 2.0**-11 + 2.0**-25 + 1e-5 * exact.abs().max()
        assert ((mine - exact).abs() <= allowed).all()


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

            def job(loss: Callable[[], Tensor] = loss) -> None:
                loss().backward()

            found = measure(job)
            assert found.flops == pytest.approx(4 * unit, rel=0.02)
            assert found.peak_bytes < limit + 8 * rows * (size + 16) * 4, "more than one piece of logits"
        weight.requires_grad_()
        assert measure(lambda: token().backward()).flops == pytest.approx(8 * unit, rel=0.02)
        assert measure(lambda: weighted(None).backward()).flops == pytest.approx(6 * unit, rel=0.02)
        assert measure(lambda: weighted().backward()).flops == pytest.approx(8 * unit, rel=0.02)


def test_a_trained_head_has_its_gradient_twice_at_most() -> None:
    """Once as the forward made it, once times the upstream scalar; and no zeros for outputs without a gradient."""
    hidden, weight, _, targets = problem(32, 2000, 256)
    weight.requires_grad_()
    mask, weights = torch.ones(1, 32, dtype=torch.bool), torch.ones(1)
    with launch.plain_path():
        found = measure(lambda: linear_weighted_ce(hidden[None], weight, targets[None], mask, weights)[0].backward())
    assert 2 * weight.nbytes <= found.peak_bytes < 2.3 * weight.nbytes
