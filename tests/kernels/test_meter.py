"""If these fail, the published traffic figures are wrong, or an op moves more than it promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from benchmarks.counted.meter import as_on_a_gpu, measure
from dmpo import kernels

VOCAB = 126464


pytestmark = pytest.mark.usefixtures("interpreter")


# ---------------------------------------------------------------------------------------------- the meter itself


@triton.jit
def _copy(source, sink, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(sink + at, tl.load(source + at, mask=at < n).to(tl.float32), mask=at < n - 1)


@triton.jit
def _product(a, b, total, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):  # type: ignore[no-untyped-def]
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    out = tl.dot(tl.load(a + m[:, None] * K + k[None, :]), tl.load(b + k[:, None] * N + n[None, :]))
    tl.atomic_add(total + n, tl.sum(out, 0))


def test_masked_loads_and_stores_are_counted_by_element() -> None:
    source, sink = torch.zeros(100, dtype=torch.float16), torch.zeros(100)
    found = measure(lambda: _copy[(4,)](source, sink, 100, BLOCK=32))
    assert (found.bytes_read, found.bytes_written, found.launches, found.flops) == (200, 396, 1, 0)


def test_dots_and_atomics_are_counted() -> None:
    a, b, total = torch.ones(16, 32), torch.ones(32, 64), torch.zeros(64)
    found = measure(lambda: _product[(1,)](a, b, total, M=16, N=64, K=32))
    assert found.flops == 2 * 16 * 64 * 32
    assert found.bytes_read == 4 * (16 * 32 + 32 * 64 + 64)
    assert found.bytes_written == 4 * 64
    assert total[0] == 16 * 32


@pytest.mark.parametrize(
    ("job", "read", "written", "flops"),
    [
        (lambda x: x.float(), 2000, 4000, 0),
        (lambda x: x + x, 4000, 2000, 0),
        (lambda x: x.mul_(2), 2000, 2000, 0),
        (lambda x: x.zero_(), 0, 2000, 0),
        (lambda x: x.view(10, 100).t()[3:], 0, 0, 0),
        (lambda x: torch.add(x[:1].expand(1000), 1), 2, 2000, 0),
        (lambda x: x[torch.arange(10)], 20 + 80, 20 + 80, 0),
        (lambda x: torch.mm(x.view(10, 100), x.view(100, 10)), 4000, 200, 20000),
        (lambda x: x[:100].view(10, 10).addmm_(x.view(10, 100), x.view(100, 10)), 4200, 200, 20000),
        (lambda x: torch.mv(x.view(10, 100), x[:100]), 2200, 20, 2000),
        (lambda x: x.new_zeros(10), 0, 20, 0),
        (lambda x: torch.ones_like(x), 0, 2000, 0),
    ],
)
def test_torch_ops_read_inputs_and_write_outputs_once(
    job: Callable[[Tensor], Tensor], read: int, written: int, flops: int
) -> None:
    x = torch.ones(1000, dtype=torch.bfloat16)
    found = measure(lambda: job(x))
    assert (found.bytes_read, found.bytes_written, found.flops) == (read, written, flops)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_into_float32_are_counted_as_a_gpu_makes_them(dtype: torch.dtype) -> None:
    """Operands are read in their own dtype, and nothing wide is held beside the result."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, generator=generator).to(dtype) for size in ((300, 40), (40, 130)))
    out = torch.empty(300, 130)
    found = measure(lambda: torch.mm(a, b, out_dtype=torch.float32, out=out))
    assert (found.bytes_read, found.bytes_written) == (a.nbytes + b.nbytes, out.nbytes)
    assert (found.flops, found.peak_bytes) == (2 * 300 * 40 * 130, 0)
    assert found.tiled_read == 2 * a.nbytes + 3 * b.nbytes  # 3 by 2 tiles of 128
    torch.testing.assert_close(out.double(), a.double() @ b.double(), rtol=1e-6, atol=1e-5)


def test_peak_is_the_most_alive_at_once() -> None:
    def job() -> None:
        for _ in range(3):
            first = torch.zeros(100_000)
            second = first + 1
            del first, second

    assert 800_000 <= measure(job).peak_bytes < 810_000


# ---------------------------------------------------------------------------------------------- the ops' promises


def loss_inputs(live: int) -> dict[str, Any]:
    """2 x 4 rows of LLaDA's vocabulary in bfloat16, `live` positions of each row masked."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[:, :live] = True
    return {
        "logits": torch.randn(2, 4, VOCAB, generator=generator).bfloat16().requires_grad_(),
        "targets": torch.randint(0, VOCAB, (2, 4), generator=generator),
        "mask": mask,
    }


@pytest.mark.parametrize("live", [1, 4])
@pytest.mark.parametrize("op", ["logprobs", "weighted"])
def test_losses_from_logits_read_live_rows_twice_and_write_the_gradient_once(op: str, live: int) -> None:
    inputs = loss_inputs(live)
    weights = torch.tensor([0.7, -0.3])

    def job() -> None:
        if op == "logprobs":
            kernels.masked_token_logprobs(**inputs).sum().backward()
        else:
            kernels.weighted_masked_ce(**inputs, weights=weights)[0].backward()

    found = measure(job)
    row = VOCAB * 2
    assert 2 * live <= found.bytes_read / (2 * row) <= 2.05 * live
    assert 4 <= found.bytes_written / (2 * row) <= 1.05 * live + (4 - live)  # dead rows: the zeros autograd wants
    assert 1 <= found.peak_bytes / inputs["logits"].nbytes <= 1.01  # the gradient, and nothing else of that size


def test_rows_of_coefficient_zero_are_never_read() -> None:
    inputs = loss_inputs(4)
    weights = torch.tensor([0.0, 1.0])
    found = measure(lambda: kernels.weighted_masked_ce(**inputs, weights=weights)[0].backward())
    assert found.bytes_read <= 2.05 * 4 * VOCAB * 2


@pytest.mark.parametrize("temperature", [0.0, 0.2, 1.0])
def test_a_draw_reads_the_logits_once(temperature: float) -> None:
    logits = loss_inputs(1)["logits"].detach()[0]
    found = measure(lambda: kernels.sample_tokens(logits, temperature, seed=0, forbid=[3]))
    assert 1 <= found.bytes_read / logits.nbytes <= 1.1
    assert found.bytes_written <= 0.01 * logits.nbytes
    assert found.peak_bytes <= 0.01 * logits.nbytes
    assert found.launches == 2


@pytest.mark.parametrize(("trainable", "op", "products"), [
    (False, "logprobs", 2), (False, "weighted", 2), (True, "logprobs", 4), (True, "weighted", 3),
])  # fmt: skip
def test_linear_losses_do_no_more_matrix_products_than_promised(trainable: bool, op: str, products: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 16, 32, generator=generator).requires_grad_()
    weight = torch.randn(1000, 32, generator=generator).requires_grad_(trainable)
    targets = torch.randint(0, 1000, (2, 16), generator=generator)
    mask = torch.arange(16).expand(2, 16) < 5  # 10 of 32 rows

    def job() -> None:
        if op == "logprobs":
            kernels.linear_token_logprobs(hidden[mask], weight, targets[mask]).sum().backward()
        else:
            kernels.linear_weighted_ce(hidden, weight, targets, mask, torch.tensor([0.5, 0.5]))[0].backward()

    assert measure(job).flops / (2 * 32 * 1000 * 10) == pytest.approx(products, abs=0.01)


def test_no_gradient_means_one_matrix_product() -> None:
    hidden, weight, targets = torch.randn(10, 32), torch.randn(1000, 32), torch.arange(10)
    found = measure(lambda: kernels.linear_token_logprobs(hidden, weight, targets))
    assert found.flops == 2 * 32 * 1000 * 10


@pytest.mark.parametrize("trainable", [False, True])
def test_on_a_gpu_linear_losses_move_each_logit_as_often_as_promised(trainable: bool) -> None:
    """Logits: written and read in float32 once for the softmax, once more for a trainable head's gradient; the 16-bit
    operand of the next product written, and read by one product or by two. The head: read twice; its gradient written
    in float32, and rounded by the backward. In one piece, no zeros to add to and no copies of products."""
    rows, vocab, size = 64, 4096, 32
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, rows, size, generator=generator).bfloat16().requires_grad_()
    weight = torch.randn(vocab, size, generator=generator).bfloat16().requires_grad_(trainable)
    targets, mask = torch.randint(vocab, (1, rows), generator=generator), torch.ones(1, rows, dtype=torch.bool)

    def job() -> None:
        kernels.linear_weighted_ce(hidden, weight, targets, mask, torch.ones(1))[0].backward()

    with as_on_a_gpu():
        found = measure(job)
    logit, head = (4 + 4 + 4 + 2 + 2 + 2, 2 + 2 + 4 + 4 + 2) if trainable else (4 + 4 + 2 + 2, 2 + 2)
    moved = rows * vocab * logit + vocab * size * head
    assert moved < found.bytes_read + found.bytes_written < moved + 100 * rows * size


def test_on_a_gpu_scoring_writes_and_reads_each_logit_once() -> None:
    hidden, weight, targets = torch.randn(64, 32).bfloat16(), torch.randn(4096, 32).bfloat16(), torch.arange(64)
    with as_on_a_gpu():
        found = measure(lambda: kernels.linear_token_logprobs(hidden, weight, targets))
    moved = 64 * 4096 * (4 + 4) + weight.nbytes
    assert moved < found.bytes_read + found.bytes_written < moved + 20_000
