"""If these fail, the ops break torch.compile, autocast or autograd, or a second derivative is silently wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from dmpo import kernels
from dmpo.kernels.linear_ce import token_operators as token_ops
from dmpo.kernels.linear_ce import weighted_operator as weighted_ops
from dmpo.kernels.masked_ce import operators as masked_ce_ops
from tests.kernels.kernel_oracle import both_paths, gradient_of, tensors_on

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.*", "ignore::DeprecationWarning")
G = torch.Generator().manual_seed(0)
LOGITS = torch.randn(3, 5, 40, generator=G)
HIDDEN, WEIGHT, BIAS = torch.randn(3, 5, 8, generator=G), torch.randn(40, 8, generator=G), torch.randn(40, generator=G)
TARGETS, MASK = torch.randint(0, 40, (3, 5), generator=G), torch.rand(3, 5, generator=G) < 0.5
WEIGHTS, BASELINE = torch.tensor([1.0, 0.0, -2.0]), torch.tensor([0.5, 0.0, 0.5])


@pytest.fixture(autouse=True)
def _constants_on_device(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in tensors_on(globals(), device).items():
        monkeypatch.setitem(globals(), name, value)


@both_paths
@pytest.mark.parametrize("masked", [True, False])
def test_opcheck_from_logits(path: str, masked: bool) -> None:
    mask = MASK if masked else None
    x = LOGITS.clone().requires_grad_()
    opcheck(masked_ce_ops.logprobs_op, (x, TARGETS, mask, False))
    _, row_max, log_sum = masked_ce_ops.logprobs_op(LOGITS, TARGETS, mask, False)
    arguments = (LOGITS.clone(), TARGETS, mask, row_max, log_sum, torch.ones(3, 5), None)
    opcheck(masked_ce_ops.backward_op, arguments)
    opcheck(masked_ce_ops.inplace_backward_op, arguments)


@both_paths
@pytest.mark.parametrize("with_baseline", [True, False])
def test_opcheck_weighted(path: str, with_baseline: bool) -> None:
    baseline = BASELINE if with_baseline else None
    x = LOGITS.clone().requires_grad_()
    opcheck(masked_ce_ops.weighted_op, (x, TARGETS, MASK, WEIGHTS, baseline, 0.5, False))


@both_paths
@pytest.mark.parametrize("trained", [(True, False, False), (True, True, True)])
def test_opcheck_linear(path: str, trained: tuple[bool, bool, bool]) -> None:
    h, w, b = (x.clone().requires_grad_(t) for x, t in zip((HIDDEN, WEIGHT, BIAS), trained, strict=True))
    frozen = not trained[1]
    opcheck(
        token_ops.logprobs_op,
        (h.flatten(0, 1).detach().requires_grad_(), w, b, TARGETS.flatten(), None, frozen),
    )
    opcheck(weighted_ops.weighted_op, (h, w, b, TARGETS, MASK, WEIGHTS, BASELINE, 0.5, None, list(trained)))
    flat, targets = HIDDEN.flatten(0, 1), TARGETS.flatten()
    stats = token_ops.logprobs_op(flat, WEIGHT, BIAS, targets, None, False)[1:3]
    opcheck(token_ops.recompute_op, (flat, WEIGHT, BIAS, targets, *stats, torch.ones(15), list(trained), None))


@both_paths
def test_opcheck_linear_transposed(path: str) -> None:
    """Inputs that do not lie in order: the gradients are laid out as the fake kernels say."""
    h, w = (x.transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for x in (HIDDEN, WEIGHT))
    flat = HIDDEN.flatten(0, 1).t().contiguous().t()
    targets, rest = TARGETS.flatten(), (MASK, WEIGHTS, BASELINE, 0.5)
    for needs in ([True, False], [True, True]):
        for limit in (None, 1000):  # whole rows, tiles
            head = w.detach().requires_grad_(needs[1])
            opcheck(weighted_ops.weighted_op, (h, head, BIAS, TARGETS, *rest, limit, [*needs, False]))
    stats = token_ops.logprobs_op(flat, w.detach(), BIAS, targets, None, True)[1:3]
    opcheck(token_ops.logprobs_op, (flat.requires_grad_(), w.detach(), BIAS, targets, None, True))
    for upstream in (torch.ones(15), torch.zeros(15)):
        opcheck(
            token_ops.recompute_op,
            (flat.detach(), w.detach(), BIAS, targets, *stats, upstream, [True] * 3, None),
        )


def from_logits(x: Tensor) -> Tensor:
    loss, nll = kernels.weighted_masked_ce(x * 2, TARGETS, MASK, WEIGHTS, BASELINE, 0.5)
    return loss + kernels.masked_token_logprobs(x.tanh(), TARGETS, MASK).sum() + nll.sum()


def from_hidden(h: Tensor) -> Tensor:
    loss, nll = kernels.linear_weighted_ce(h * 2, WEIGHT, TARGETS, MASK, WEIGHTS, bias=BIAS)
    return loss + kernels.linear_token_logprobs(h.tanh().flatten(0, 1), WEIGHT, TARGETS.flatten()).sum() + nll.sum()


def from_hidden_trained(w: Tensor) -> Tensor:
    loss, _ = kernels.linear_weighted_ce(HIDDEN, w * 2, TARGETS, MASK, WEIGHTS)
    return loss + kernels.linear_token_logprobs(HIDDEN.flatten(0, 1), w, TARGETS.flatten()).sum()


@both_paths
@pytest.mark.parametrize("loss", [from_logits, from_hidden, from_hidden_trained])
def test_compiles_as_one_graph(path: str, loss: Callable[[Tensor], Tensor]) -> None:
    start = {from_logits: LOGITS, from_hidden: HIDDEN, from_hidden_trained: WEIGHT}[loss]
    results = []
    for run in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        x = start.clone().requires_grad_()
        out = run(x)
        out.backward()
        results.append((out.detach(), x.grad))
    torch._dynamo.reset()
    torch.testing.assert_close(results[0], results[1])


@both_paths
def test_compiles_transposed(path: str) -> None:
    def loss(x: Tensor) -> Tensor:
        return kernels.linear_weighted_ce(x.transpose(0, 1), WEIGHT, TARGETS, MASK, WEIGHTS)[0]

    grads = []
    for run in (loss, torch.compile(loss, fullgraph=True)):
        x = HIDDEN.transpose(0, 1).contiguous().requires_grad_()
        run(x).backward()
        grads.append(gradient_of(x))
    torch._dynamo.reset()
    assert torch.equal(*grads)


@both_paths
def test_autocast(path: str) -> None:
    """From logits nothing changes; hidden states and head are cast as a linear layer casts; float32 comes out."""
    h, w = HIDDEN.clone().requires_grad_(), WEIGHT.clone().requires_grad_()
    x = LOGITS.clone().requires_grad_()
    with torch.autocast(x.device.type, torch.bfloat16):
        same = kernels.masked_token_logprobs(x, TARGETS, MASK)
        loss, nll = kernels.linear_weighted_ce(h, w, TARGETS, MASK, WEIGHTS)
        tokens = kernels.linear_token_logprobs(h.flatten(0, 1), w, TARGETS.flatten())
    assert torch.equal(same, kernels.masked_token_logprobs(x, TARGETS, MASK))
    assert {out.dtype for out in (loss, nll, tokens)} == {torch.float32}
    low_h, low_w = h.bfloat16(), w.bfloat16()
    assert torch.equal(loss, kernels.linear_weighted_ce(low_h, low_w, TARGETS, MASK, WEIGHTS)[0])
    assert torch.equal(tokens, kernels.linear_token_logprobs(low_h.flatten(0, 1), low_w, TARGETS.flatten()))
    (loss + tokens.sum()).backward()
    assert gradient_of(h).dtype == gradient_of(w).dtype == torch.float32


@both_paths
@pytest.mark.parametrize("loss", [from_logits, from_hidden, from_hidden_trained])
def test_double_backward_is_refused(path: str, loss: Callable[[Tensor], Tensor]) -> None:
    start = {from_logits: LOGITS, from_hidden: HIDDEN, from_hidden_trained: WEIGHT}[loss]
    x = start.clone().requires_grad_()

    def twice() -> None:
        (grad,) = torch.autograd.grad(loss(x), x, create_graph=True)
        grad.square().sum().backward()

    with pytest.raises(RuntimeError, match=r"second derivative|double backward"):
        twice()


@both_paths
def test_no_grad_keeps_no_graph(path: str) -> None:
    h = HIDDEN.flatten(0, 1).clone().requires_grad_()
    with torch.no_grad():
        assert not kernels.linear_token_logprobs(h, WEIGHT, TARGETS.flatten()).requires_grad
    assert kernels.linear_token_logprobs(h, WEIGHT, TARGETS.flatten()).requires_grad
    assert not kernels.linear_token_logprobs(h.detach(), WEIGHT, TARGETS.flatten()).requires_grad
