"""Triton kernels run in Triton's interpreter here, and only where a test asks for them; one thread a test process.

Triton reads TRITON_INTERPRET when a kernel is defined, so it is set before anything imports Triton. DMPO_PLAIN keeps
every op on its plain PyTorch path; kernel tests lift that inside `dmpo.kernels.launch.plain_path(False)`. Tiny tensors
gain nothing from more threads, and lose much on a busy machine.

The files that take longest start first, so that both test processes end together.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"
os.environ["DMPO_PLAIN"] = "1"

import pytest
import torch

torch.set_num_threads(1)

SLOWEST_FIRST = (
    "test_cuda_build.py",
    "test_compile_proof.py",
    "test_kills.py",
    "test_training.py",
    "test_sampling.py",
    "test_decoders.py",
    "test_launch.py",
    "test_gradients.py",
    "test_sharding.py",
    "test_ops.py",
    "test_plan.py",
    "test_roofline_count.py",
    "test_sanitizers.py",
    "test_remask_cuda_source.py",
    "test_cli.py",
    "test_masked_ce.py",
    "test_published.py",
    "test_install.py",
    "test_trainer.py",
    "test_ending.py",
    "test_rollout.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(SLOWEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
