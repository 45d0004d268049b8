"""If these fail, a loss of few rows takes as many launches as one of many, holds more memory, or rounds otherwise."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.predict.kernels import walk
from benchmarks.predict.op_counts import count, fake_gpu, peak, total
from dmpo.kernels import head as lm_head
from dmpo.kernels import linear_token_logprobs, linear_weighted_ce, reference
from dmpo.kernels.linear_ce import tiles as linear_ce_tiles
from dmpo.kernels.linear_ce import triton_kernels as linear_ce_triton
from dmpo.planning.memory import HeadMemory
from tests.kernels.linear_problems import HEADS, compare, problem

VOCAB, HIDDEN = 126464, 4096  # LLaDA's
FULL = 5461  # rows of bfloat16 that fill a piece of 8192 columns
WALKS = [(False, False), (False, True), (True, False)]  # head trainable, weighted; the fourth takes whole rows anyway


@pytest.fixture
def small_blocks(interpreter: None, unwritten_is_nan: None, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """A program holds 128 columns, so that small vocabularies take several; counts the launches of tile steps."""
    monkeypatch.setattr(linear_ce_triton, "BLOCK", 128)
    monkeypatch.setattr(linear_ce_tiles, "TRITON_COLUMNS", 128)
    launches: Counter[str] = Counter()
    for name in ("_tile_softmax_kernel", "_wide_tile_softmax_kernel", "_tile_gradient_kernel"):
        monkeypatch.setattr(linear_ce_triton, name, Counted(getattr(linear_ce_triton, name), name, launches))
    return launches


class Counted:
    def __init__(self, kernel: Any, name: str, launches: Counter[str]) -> None:
        self.kernel, self.name, self.launches = kernel, name, launches

    def __getitem__(self, grid: Any) -> Any:
        self.launches[self.name] += 1
        return self.kernel[grid]


@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.*")
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("vocab", "limit"), [(1003, None), (1003, 9 * 400 * 4), (513, 9 * 513 * 4), (1024, None)])
def test_wide_tiles_give_the_values_of_the_definition(
    vocab: int, limit: int | None, head: str, small_blocks: Counter[str]
) -> None:
    """All columns in one tile or in a few, ends that fill no block; targets in each of them."""
    hidden, weight, bias, targets = problem(9, vocab, 20)
    targets[:4] = torch.tensor([0, vocab - 1, 127, 128])
    compare(
        lambda h, w, b: linear_token_logprobs(h, w, targets, bias=b, max_logits_bytes=limit),
        lambda h, w, b: reference.linear_token_logprobs(h, w, targets, bias=b),
        head, hidden, weight, bias, scale=8.0,
    )  # fmt: skip
    assert small_blocks["_wide_tile_softmax_kernel"] > 0
    assert small_blocks["_tile_softmax_kernel"] == 0


@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.*")
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_a_wide_tile_of_forbidden_tokens_and_of_large_logits(scale: float, small_blocks: Counter[str]) -> None:
    """-inf throughout the first tile and in whole blocks of the second; NaN and a target out of range stay in a row."""
    hidden, weight, bias, targets = problem(9, 1003, 20, scale=scale)
    bias[:560] = -torch.inf
    targets.clamp_(min=560)
    limit = 9 * 512 * 4
    compare(
        lambda h, w, _: linear_token_logprobs(h, w, targets, bias=bias.to(h.dtype), max_logits_bytes=limit),
        lambda h, w, _: reference.linear_token_logprobs(h, w, targets, bias=bias.to(h.dtype)),
        "frozen", hidden, weight, None, scale=8.0,
    )  # fmt: skip
    assert small_blocks == {"_wide_tile_softmax_kernel": 2}
    hidden[3] = torch.nan
    found = linear_token_logprobs(hidden, weight, targets, bias=bias)
    assert found.isnan().tolist() == [row == 3 for row in range(9)]


@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.*")
def test_a_weighted_loss_of_few_rows(small_blocks: Counter[str]) -> None:
    hidden, weight, bias, targets = problem(8, 1003, 20)
    mask, weights = torch.tensor([[True, False, True, True], [True] * 4]), torch.tensor([2.0, -1.0])
    rest = (targets.view(2, 4), mask, weights)
    compare(
        lambda h, w, b: linear_weighted_ce(h.view(2, 4, 20), w, *rest, bias=b)[0],
        lambda h, w, b: reference.linear_weighted_ce(h.view(2, 4, 20), w, *rest, bias=b)[0],
        "frozen", hidden, weight, bias, scale=16.0,
    )  # fmt: skip
    assert small_blocks == {"_wide_tile_softmax_kernel": 1}


def fakes(rows: int) -> tuple[Tensor, Tensor]:
    hidden, head = (torch.empty(size, HIDDEN, dtype=torch.bfloat16) for size in (rows, VOCAB))
    return hidden, head


@pytest.mark.parametrize(("trainable", "weighted"), WALKS)
def test_few_rows_take_fewer_launches(trainable: bool, weighted: bool) -> None:
    """At LLaDA's sizes: 16 tiles where rows fill the piece, 2 of 512 rows, 1 of 64."""

    def launches(rows: int) -> float:
        with fake_gpu(FakeTensorMode()):
            return total(count(lambda: walk(*fakes(rows), trainable=trainable, weighted=weighted)))["launches"]

    full, some, few = (launches(rows) for rows in (FULL, 512, 64))
    each = (full - few) / 15 if not trainable else None
    if each is not None:  # of a tile: logits, softmax, product
        assert each == 3
        assert full - some == 14 * each
    else:  # beside a tile's logits its gradient of the head is held, which bounds its columns
        assert few <= some < full / 2


@pytest.mark.parametrize("rows", [1, 64, 512, 1024, 2730, 4000])
@pytest.mark.parametrize(("trainable", "weighted"), WALKS)
def test_few_rows_hold_no_more_than_a_full_piece(trainable: bool, weighted: bool, rows: int) -> None:
    def held(rows: int) -> int:
        with fake_gpu(FakeTensorMode()):
            inputs = fakes(rows)
            return peak(lambda: walk(*inputs, trainable=trainable, weighted=weighted), list(inputs))

    assert held(rows) <= held(FULL)


@pytest.mark.parametrize("rows", [1, 64, 512, 1024, 2730, 2731, 5000, 20_000])
def test_the_memory_plan_knows_the_piece(rows: int) -> None:
    """Of the pass that scores: its rows have a piece, and the plan's is as large."""
    arch: Any = SimpleNamespace(vocab=VOCAB, hidden=HIDDEN)
    config: Any = SimpleNamespace(dtype="bfloat16", lora_r=8)
    planned = HeadMemory(arch, config, "cuda", rows).logits_tile()
    with fake_gpu(FakeTensorMode()):
        hidden, weight = fakes(rows)
        head = lm_head.head_of(hidden, weight, None)
        shape = linear_ce_tiles.tile_of(head, rows, linear_ce_tiles.TILE_BYTES["cuda"])
        buffers = linear_ce_tiles.Buffers(head, *shape)
        held = buffers.logits.nbytes + buffers.operand.nbytes
    assert held == pytest.approx(planned, rel=2e-4)
    assert held <= linear_ce_tiles.TILE_BYTES["cuda"]
