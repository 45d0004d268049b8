"""If these fail, tests that a GPU should run are not collected there, or run on the CPU and pass for them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dmpo.kernels import reference
from tests import conftest, devices

ROOT = Path(__file__).parents[1]
FAKE = """
import torch
torch.cuda.is_available = lambda: True
torch.cuda.init = lambda: None
"""
KERNELS = "masked_ce masked_ce_memory linear_ce linear_ce_walks ops compile remask revoke sampling sampling_op"
ON_A_GPU = {
    "tests/kernels": f"{KERNELS} sampling_uniforms linear_sampling",
    "tests/decoding": "decoders generate golden published shadow_pass",
    "tests/objectives": "finite gradient gradients one_step runs",
    "tests/losses": "wdce",
    "tests": "trainer",
}
MODULES = [f"{folder}/test_{name}.py" for folder, names in ON_A_GPU.items() for name in names.split()]


def collect(*arguments: str, plugins: Path | None = None) -> str:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(plugins or ROOT), str(ROOT)])}
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "--collect-only", "-m", "gpu"]
    done = subprocess.run([*command, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    return done.stdout


def test_every_kernel_decoder_loss_objective_and_trainer_test_is_collected_where_there_is_a_gpu(tmp_path: Path) -> None:
    (tmp_path / "fake_gpu.py").write_text(FAKE)
    output = collect("-p", "fake_gpu", *MODULES, plugins=tmp_path)
    tests = re.findall(r"^(tests/\S+\.py)::(\S+)", output, re.MULTILINE)
    assert {module for module, _ in tests} == set(MODULES)
    assert all("gpu" in name for _, name in tests)
    assert len(tests) > 1000
    paths = {path for _, name in tests for path in ("gpu-plain", "gpu-triton") if path in name or path[::-1] in name}
    assert len(paths) == 2, "both paths run on a GPU"
    assert "not run" not in output


@pytest.mark.parametrize("here", [False, True])
def test_one_line_says_that_there_is_no_gpu(
    here: bool, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    monkeypatch.setattr(devices, "CUDA_IS_HERE", here)
    monkeypatch.setattr(pytestconfig.option, "device", "cuda")
    lines: list[str] = []
    reporter: Any = SimpleNamespace(write_line=lines.append)
    conftest.pytest_terminal_summary(reporter, pytestconfig)
    assert [line.startswith("tests on a GPU: not run, torch ") for line in lines] == ([] if here else [True])


def test_tensors_of_tests_lie_on_the_device_and_those_of_the_package_where_it_puts_them() -> None:
    with devices.on(torch.device("meta")):
        here = [torch.zeros(3), torch.randn(2, generator=torch.Generator()), torch.tensor([1.0], requires_grad=True)]
        assert {x.device.type for x in here} == {"meta"}
        assert here[2].requires_grad
        assert here[2].is_leaf
        assert torch.zeros(3, device="cpu").device.type == "cpu", "as asked for"
        rows = torch.arange(4, device="cpu")
        assert reference.uniform(0, rows).device.type == "cpu"
        elsewhere = eval(compile("torch.zeros(3)", str(ROOT / "dmpo" / "module.py"), "eval"), {"torch": torch})
        assert elsewhere.device.type == "cpu"
        assert devices.current().type == "meta"
    assert torch.zeros(3).device.type == devices.current().type == "cpu"


def test_random_tensors_are_the_same_on_every_device() -> None:
    before = torch.randn(5, generator=torch.Generator().manual_seed(1))
    with devices.on(devices.CPU):
        assert torch.equal(torch.randn(5, generator=torch.Generator().manual_seed(1)), before)


def test_other_tests_and_their_children_see_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = lambda: True  # noqa: E731 - compared by identity
    monkeypatch.setattr(torch.cuda, "is_available", seen)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    for name, value in {"CUDA_IS_HERE": True, "_is_available": seen, "_visible_devices": "3"}.items():
        monkeypatch.setattr(devices, name, value)

    def shown() -> tuple[bool, str]:
        return torch.cuda.is_available(), os.environ["CUDA_VISIBLE_DEVICES"]

    devices.hide_cuda()
    assert shown() == (False, "")
    with devices.on(devices.CPU):
        assert shown() == (True, "3")
    assert shown() == (False, "")


def test_every_slow_file_is_there() -> None:
    """A file that moved would lose its marker, and `make check` its two minutes."""
    names = conftest.SLOWEST_FIRST
    assert [name for name in names if not (ROOT / "tests" / name).is_file()] == []
    assert len(set(names)) == len(names)
