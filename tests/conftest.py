"""A test that asks for `device` runs on the CPU, and on the GPU where there is one; all others run on the CPU.

Tests on the GPU have the marker gpu: `pytest -m gpu` runs them alone, and `--device cpu` runs their bodies on the CPU.
`cpu_only` keeps a test of a module that asks for `device` on the CPU, and says why. Kernels run in Triton's interpreter
where a test asks for that (the fixture `interpreter`).

Tiny tensors gain nothing from more threads, and lose much on a busy machine: one thread a test process. The files that
take longest start first, so that both test processes end together. They and a few more have the marker slow.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks/ is not installed
os.environ["TRITON_INTERPRET"] = os.environ["DMPO_PLAIN"] = "0"  # fixtures choose between these paths
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # deterministic algorithms need it

import pytest
import torch

from tests import devices

torch.set_num_threads(1)
torch.set_float32_matmul_precision("highest")  # no TF32: float32 references have float32's rounding on a GPU, too

FOLDER = Path(__file__).parent
# Files that took 3 seconds or more on two cores, the longest first (2026-11-27). `make check` leaves them out.
SLOWEST_FIRST = (
    "kernels/test_cuda_build.py",
    "pretend_cuda/test_pretend_cuda.py",
    "benchmarks/test_gpu_rehearsal.py",
    "models/test_compiled_layers.py",
    "storage/test_terminal.py",
    "benchmarks/test_quick_run.py",
    "kernels/test_linear_ce_walks.py",
    "ranks/test_training.py",
    "kernels/test_compile_proof.py",
    "ranks/test_deepspeed.py",
    "test_install.py",
    "ranks/test_launch.py",
    "view/test_browser.py",
    "examples/test_notebook.py",
    "run/test_kills.py",
    "kernels/test_sampling.py",
    "ranks/test_sharding.py",
    "test_devices.py",
    "decoding/test_decoders.py",
    "cli/test_commands.py",
    "models/test_real_model.py",
    "cli/test_terminal.py",
    "cli/test_generate.py",
    "cli/test_help.py",
    "kernels/test_coefficients.py",
    "kernels/test_ops.py",
    "ranks/test_gradients.py",
    "benchmarks/test_gpu.py",
    "benchmarks/test_gpu_llada.py",
    "evaluation/test_runner.py",
    "benchmarks/test_op_counts.py",
    "kernels/test_linear_sampling.py",
    "kernels/test_linear_ce.py",
    "planning/test_plan.py",
    "kernels/test_launched_variants.py",
    "decoding/test_golden.py",
    "models/test_merge.py",
    "decoding/test_graph_capture.py",
    "run/test_early_checks.py",
    "kernels/test_sanitizers.py",
    "kernels/test_linear_ce_few_rows.py",
    "test_trainer.py",
    "kernels/test_meter.py",
    "kernels/test_remask.py",
    "decoding/test_published.py",
    "kernels/test_masked_ce.py",
    "kernels/test_interpreter.py",
    "benchmarks/test_predict_measured.py",
    "objectives/test_finite.py",
    "examples/test_examples.py",
    "kernels/test_remask_cuda_source.py",
    "rollouts/test_rollout.py",
    "rewards/test_equivalence.py",
    "decoding/test_compiled.py",
    "rewards/test_answers.py",
    "kernels/test_launch.py",
    "objectives/test_gradient.py",
    "examples/test_site.py",
    "rewards/test_workers.py",
    "test_trainer_keys.py",
    "objectives/test_runs.py",
    "run/test_signals.py",
    "test_docs.py",
    "test_pretrain.py",
    "models/test_loading.py",
    "evaluation/test_held_out.py",
    "evaluation/test_selection.py",
    "kernels/test_compile.py",
    "tasks/test_shipped_configs.py",
    "benchmarks/test_study.py",
    "models/test_adapters.py",
    "kernels/test_revoke.py",
    "evaluation/test_run_keys.py",
    "objectives/test_own_scores.py",
    "examples/test_one_file.py",
    "ranks/test_ending.py",
    "benchmarks/test_gpu_checks.py",
    "run/test_disks.py",
    "test_readme.py",
    "models/test_masked_lm.py",
    "run/test_skipping.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {FOLDER / name: number for number, name in enumerate(SLOWEST_FIRST)}
    for item in items:
        if item.path in order:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: order.get(item.path, len(order)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="device of the tests marked gpu; cpu tries their bodies",
    )


def pytest_configure(config: pytest.Config) -> None:
    starts_workers = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if not starts_workers:  # whose workers must see the GPU
        devices.hide_cuda()


def _runs_on_gpu(config: pytest.Config) -> bool:
    return devices.CUDA_IS_HERE or config.getoption("--device") == "cpu"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" not in metafunc.fixturenames:
        return
    names = ["cpu"]
    cpu_only = metafunc.definition.get_closest_marker("cpu_only")
    if cpu_only is None and _runs_on_gpu(metafunc.config):
        names.append("gpu")
    marks: dict[str, tuple[pytest.MarkDecorator, ...]] = {"cpu": (), "gpu": (pytest.mark.gpu,)}
    metafunc.parametrize("device", [pytest.param(name, marks=marks[name]) for name in names], indirect=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not _runs_on_gpu(config):
        terminalreporter.write_line(f"tests on a GPU: not run, {devices.why_no_gpu()}")
    elif config.getoption("--device") == "cpu":
        terminalreporter.write_line("tests on a GPU: their bodies ran on the CPU (--device cpu)")


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The CPU, or the GPU in a test of its own; there, tensors that test files create lie on the GPU."""
    if request.param == "cpu":
        yield devices.CPU
        return
    target = torch.device(request.config.getoption("--device"))
    with devices.on(torch.device("cuda", 0) if target.type == "cuda" else target):
        yield devices.current()


@pytest.fixture
def interpreter() -> Iterator[None]:
    """Ops on CPU tensors run the Triton kernels, in Triton's interpreter."""
    from benchmarks.counted.interpreter import interpreted
    from tests.interpreter_probe import interpreter_fault

    if interpreter_fault():
        pytest.skip(f"Triton's interpreter does not run here: {interpreter_fault()}")
    with interpreted():
        yield


@pytest.fixture
def unwritten_is_nan() -> Iterator[None]:
    """What `torch.empty` returns is full of NaN, so that a result which nothing wrote cannot look right by chance; and
    algorithms are deterministic, where a GPU has such."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # with it torch.utils.deterministic fills memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
