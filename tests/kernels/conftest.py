"""Kernel tests run Triton's interpreter, quickly."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2]))  # benchmarks/ is not installed

from benchmarks.interpreter import quick_interpreter
from dmpo.kernels import launch


@pytest.fixture(scope="session", autouse=True)
def _quick_interpreter() -> Iterator[None]:
    with quick_interpreter():
        yield


@pytest.fixture
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """The implementation a test's parameter names: "plain" PyTorch or the "triton" kernels in the interpreter."""
    assert launch.INTERPRETED, "tests/conftest.py sets TRITON_INTERPRET=1 before anything imports triton"
    with launch.plain_path(request.param == "plain"):
        yield request.param


@pytest.fixture
def unwritten_is_nan() -> Iterator[None]:
    """What `torch.empty` returns is full of NaN, so that a result which nothing wrote cannot look right by chance."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # and with it torch.utils.deterministic.fill_uninitialized_memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
