"""The CUDA code of remask_ and revoke_, run on the CPU: where it differs from the host's, a GPU would choose otherwise.

csrc/select_cuda.cu is compiled by g++ as it stands; native/cuda_on_cpu.h gives it blocks, barriers and shared memory.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .native import build_operators
from .remask_rows import MASK, assert_operators_agree, make_rows

# One thread to several positions a thread, around a warp and a block: the launch takes 64 to 1024 threads.
GRID = [(20, 1), (20, 2), (16, 31), (16, 33), (16, 64), (16, 65), (10, 200), (3, 1023), (3, 1025), (2, 3000), (2, 4096)]


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """torch.ops with the operators of select_cuda.cu for CPU tensors."""
    folder = tmp_path_factory.mktemp("cuda_on_cpu")
    flags = ["-O2", "-include", "cuda_on_cpu.h"]
    torch.ops.load_library(build_operators(folder, "select_cuda.cu", "select_cuda", "dmpo_on_cpu", *flags))
    return torch.ops.dmpo_on_cpu


def test_agrees_with_the_host_on_thousands_of_rows(on_cpu: Any) -> None:
    assert assert_operators_agree(on_cpu, torch.ops.dmpo, GRID) > 4000


def test_strides(on_cpu: Any) -> None:
    tokens, candidates, confidence = make_rows(90, 80, seed=4)
    for view in (lambda t: t[:, 11:43], lambda t: t[::2, ::3], lambda t: t.t()):
        expected, whole = tokens.clone(), tokens.clone()
        for ops, written in ((torch.ops.dmpo, expected), (on_cpu, whole)):
            ops.remask_(view(written), view(candidates), view(confidence), MASK, count=7)
            ops.revoke_(view(written), view(confidence), MASK, 0.4, limit=5)
        assert torch.equal(whole, expected)


def test_negative_counts_of_rows_take_nothing(on_cpu: Any) -> None:
    tokens, candidates, confidence = make_rows(3, 20, masked=0.5)
    before = tokens.clone()
    counts = torch.tensor([-1, 0, -7])
    assert on_cpu.remask_(tokens, candidates, confidence, MASK, counts=counts).tolist() == [0, 0, 0]
    assert on_cpu.revoke_(tokens, confidence, MASK, 2.0, limits=counts).tolist() == [0, 0, 0]
    assert torch.equal(tokens, before)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)], ids=str)
def test_nothing_to_look_at(on_cpu: Any, shape: tuple[int, int]) -> None:
    tokens = torch.zeros(shape, dtype=torch.int64)
    assert on_cpu.remask_(tokens, tokens, torch.ones(shape), MASK, count=1).tolist() == [0] * shape[0]
    assert on_cpu.revoke_(tokens, torch.ones(shape), MASK, 2.0, limit=1).tolist() == [0] * shape[0]


def test_longer_rows_are_refused(on_cpu: Any) -> None:
    tokens = torch.zeros(1, 4097, dtype=torch.int64)
    with pytest.raises(ValueError, match="revoke_: rows of at most 4096 positions on CUDA, got 4097"):
        on_cpu.revoke_(tokens, torch.zeros(1, 4097), MASK, 0.5, limit=1)
