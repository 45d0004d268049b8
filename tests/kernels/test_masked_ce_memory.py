"""If these fail, logits are overwritten unasked, more of them is held than promised, or bad input gets through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.counted.meter import measure
from dmpo.kernels import launch, masked_token_logprobs, weighted_masked_ce
from tests.kernels.kernel_oracle import FLOATS, both_paths, gradient_of, value_and_grads
from tests.kernels.logit_problems import inputs

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.*")  # NaN and inf on purpose, through numpy
NAN, INF = float("nan"), float("inf")
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
        assert torch.equal(gradient_of(source), want)
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


@pytest.mark.cpu_only("on a GPU, values are not checked")
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
