"""Masked cross-entropy from logits in plain PyTorch: live rows only, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ..arithmetic import accumulation_dtype

PLAIN_CHUNK_BYTES = 16 << 20  # of a row chunk: the copy of its logits in the accumulation dtype


def _chunks(logits: Tensor, live: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices (n, l) of live rows, a bounded number at a time."""
    rows, columns = live.nonzero(as_tuple=True)
    step = max(1, PLAIN_CHUNK_BYTES // (logits.shape[-1] * accumulation_dtype(logits.dtype).itemsize))
    yield from zip(rows.split(step), columns.split(step), strict=True)


def forward(logits: Tensor, targets: Tensor, live: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log p(target), max x and log Σ exp(x - max): [N, L] each, accumulation dtype; zeros where not `live`."""
    dtype, vocab = accumulation_dtype(logits.dtype), logits.shape[-1]
    log_probs, row_max, log_sum = (logits.new_zeros(logits.shape[:2], dtype=dtype) for _ in range(3))
    for at in _chunks(logits, live):
        x = logits[at].to(dtype)  # [rows, V]
        chosen = x.gather(1, targets[at].clamp(0, vocab - 1).unsqueeze(1)).squeeze(1)
        chosen = chosen.masked_fill((targets[at] < 0) | (targets[at] >= vocab), float("nan"))
        top = x.amax(1)
        top = top.masked_fill(top == float("-inf"), 0.0)
        log_total = x.sub_(top.unsqueeze(1)).exp_().sum(1).log()
        log_probs[at], row_max[at], log_sum[at] = (chosen - top) - log_total, top, log_total
    return log_probs, row_max, log_sum


def backward(
    logits: Tensor, targets: Tensor, live: Tensor, row_max: Tensor, log_sum: Tensor, c: Tensor, out: Tensor
) -> None:
    """c · (onehot - softmax) of the live rows into `out`; c [N, L]."""
    vocab = logits.shape[-1]
    for at in _chunks(logits, live):
        target = targets[at].clamp(0, vocab - 1).unsqueeze(1)
        factor = c[at].masked_fill((targets[at] < 0) | (targets[at] >= vocab), float("nan")).unsqueeze(1)
        p = logits[at].to(row_max.dtype).sub_(row_max[at].unsqueeze(1)).sub_(log_sum[at].unsqueeze(1)).exp_()
        chosen = factor * (1.0 - p.gather(1, target))
        out[at] = p.mul_(-factor).scatter_(1, target, chosen).to(out.dtype)
