"""Kernel tests choose between plain PyTorch and Triton, which runs in its interpreter on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from dmpo.kernels import launch
from dmpo.kernels.remask.extension import extension_status


@pytest.fixture
def path(request: pytest.FixtureRequest, device: torch.device) -> Iterator[str]:
    """The implementation a test's parameter names: "plain" PyTorch or the "triton" kernels, interpreted on the CPU."""
    if request.param == "triton" and device.type == "cpu":
        request.getfixturevalue("interpreter")
    with launch.plain_path(request.param == "plain"):
        assert launch.uses_triton(torch.zeros(1)) is (request.param == "triton")
        yield request.param


@pytest.fixture
def extension(device: torch.device) -> tuple[bool, str]:
    """Whether dmpo._C is built, and how; a test on a GPU is skipped where the extension has no CUDA sources."""
    built, how = extension_status()
    if device.type == "cuda" and not (built and "with CUDA sources" in how):
        pytest.skip(f"dmpo._C on a GPU: {how}")
    return built, how
