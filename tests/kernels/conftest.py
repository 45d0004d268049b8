"""Kernel tests run Triton's interpreter, quickly."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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
