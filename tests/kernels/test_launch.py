"""If these fail, a kernel launches with parameters nobody asked for, or the package needs Triton to be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import tuning
from dmpo.kernels import launch
from dmpo.kernels.autotune import autotune
from dmpo.kernels.launch import launch_config
from dmpo.kernels.launch.table import ARCHITECTURES, TABLE, LaunchConfig, cache_file
from dmpo.kernels.sampling import triton_kernels as sampling_triton

RESULTS = Path(tuning.__file__).parents[1] / "results"


@pytest.fixture(autouse=True)
def no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DMPO_LAUNCH_JSON", raising=False)
    launch.forget_files()
    yield
    launch.forget_files()


@pytest.mark.parametrize("op", sorted(TABLE[90]))
@pytest.mark.parametrize("vocab", [1, 100, 5003, 126464, 1 << 20])
@pytest.mark.parametrize("arch", [75, 80, 86, 90, 100, 120, None])
def test_every_row_gets_a_legal_launch(op: str, vocab: int, arch: int | None) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        config = launch_config(op, vocab, dtype, arch)
        assert config.block >= 128
        for n in (config.block, config.num_warps):
            assert n & (n - 1) == 0
        assert config.block < 2 * max(vocab, 128), "a block much longer than the row"
        assert config.block * dtype.itemsize >= config.num_warps * 512 or config.num_warps == 1


@pytest.mark.parametrize(
    ("arch", "bandwidth", "processors"), [(80, 2.0e12, 108), (90, 3.35e12, 132), (100, 8.0e12, 148)]
)  # bytes a second and multiprocessors of A100, H100, B200
def test_a_forward_program_hides_the_latency_of_its_loads(arch: int, bandwidth: float, processors: int) -> None:
    """Little's law: one program on a multiprocessor must have bandwidth · latency / multiprocessors in flight. Where
    the table has the measured entry, the programs that the measured rows bring to a multiprocessor have it together."""
    for size, config in TABLE[arch]["ce_forward"].items():
        programs = measured_programs(config, processors) if (arch, size) == (90, 2) else 1
        assert programs * config.block * size >= bandwidth * 0.6e-6 / processors
    assert TABLE.keys() == set(ARCHITECTURES)


def measured_programs(config: LaunchConfig, processors: int) -> int:
    """Programs of ce_forward in bfloat16 on a multiprocessor of sm_90 at once: bounded by the rows of the measurement,
    by 2048 threads and by 64 K registers."""
    compiled = json.loads((RESULTS / "kernel_report.json").read_text())["compiled"]
    (kernel,) = (k for k in compiled if (k["arch"], k["name"]) == (90, "ce_forward_token_bf16"))
    assert kernel["warps"] == config.num_warps, "counted with other launch parameters"
    threads = 32 * config.num_warps
    return min(tuning.ROWS // processors, 2048 // threads, (64 << 10) // (threads * kernel["registers"]))


@pytest.mark.parametrize("op", ["ce_forward", "sample_tiles"])
def test_a_measured_entry_is_the_fastest_of_the_measurement(op: str) -> None:
    records = json.loads((RESULTS / "nvidia-h200" / "gpu.json").read_text())["parts"]["tuning"]["records"]
    (record,) = (r for r in records if r["name"] == f"{op}, bfloat16")
    assert record["ok"]
    assert TABLE[90][op][2] == LaunchConfig(record["block"], record["warps"])


def test_order_of_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def table(block: int) -> str:
        return json.dumps({"sm_90": {"ce_forward": {"2": {"block": block, "num_warps": 4}}}})

    def now() -> int:
        return launch_config("ce_forward", 126464, torch.bfloat16, 90).block

    assert now() == TABLE[90]["ce_forward"][2].block
    cache_file().parent.mkdir(parents=True)
    cache_file().write_text(table(2048))
    assert now() == TABLE[90]["ce_forward"][2].block, "files are read once"
    launch.forget_files()
    assert now() == 2048
    (tmp_path / "mine.json").write_text(table(1024))
    monkeypatch.setenv("DMPO_LAUNCH_JSON", str(tmp_path / "mine.json"))
    assert now() == 1024
    assert launch_config("ce_forward", 126464, torch.float32, 90) == TABLE[90]["ce_forward"][4]


@pytest.mark.parametrize(
    "text", ["not json", "[]", '{"sm_90": {"ce_forward": {"2": {"blok": 1}}}}',
             '{"sm_90": {"ce_forward": {"2": {"block": 100, "num_warps": 4}}}}',
             '{"sm90": {}}', '{"sm_90": {"ce": {}}}',
             '{"sm_90": {"ce_forward": {"bf16": {"block": 64, "num_warps": 4}}}}'],
)  # fmt: skip
def test_a_broken_file_is_named(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.json").write_text(text)
    monkeypatch.setenv("DMPO_LAUNCH_JSON", str(tmp_path / "bad.json"))
    with pytest.raises(ValueError, match=r"bad\.json"):
        launch_config("ce_forward", 1000, torch.bfloat16, 90)
    monkeypatch.setenv("DMPO_LAUNCH_JSON", str(tmp_path / "absent.json"))
    with pytest.raises(ValueError, match=r"absent\.json"):
        launch_config("ce_forward", 1000, torch.bfloat16, 90)


def test_autotune_keeps_the_fastest_on_disk() -> None:
    seen: list[LaunchConfig] = []
    before = launch_config("ce_forward", 126464, torch.bfloat16, 80)

    def clock(run: Callable[[], object]) -> float:
        run()
        return abs(seen[-1].block - 4096) + seen[-1].num_warps

    def run() -> None:
        seen.append(launch_config("ce_forward", 126464, torch.bfloat16, 80))

    best = autotune("ce_forward", 126464, torch.bfloat16, run, arch=80, timer=clock)
    assert len(set(seen)) > 3
    assert best == LaunchConfig(4096, 4) != before
    assert launch_config("ce_forward", 126464, torch.bfloat16, 80) == best
    assert launch_config("ce_forward", 126464, torch.bfloat16, 90) == TABLE[90]["ce_forward"][2]


@pytest.mark.parametrize("op", ["ce_forward", "ce_backward", "sample_tiles"])
def test_autotune_drives_the_op(op: str, interpreter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[LaunchConfig] = []
    resolve = launch.launch_config

    def spy(asked: str, vocab: int, dtype: torch.dtype, arch: int | None = None) -> LaunchConfig:
        assert asked == op
        launched.append(resolve(asked, vocab, dtype, arch))
        return launched[-1]

    def clock(run: Callable[[], object]) -> float:
        run()
        return float(launched[-1] != LaunchConfig(2048, 8))

    monkeypatch.setattr(launch, "launch_config", spy)  # what the launchers of the losses and the sampler call
    monkeypatch.setattr(sampling_triton, "launch_config", spy)
    best = autotune(op, 3000, torch.float32, timer=clock)
    assert best == LaunchConfig(2048, 8)
    assert len(launched) == len(set(launched)) > 3
    assert resolve(op, 3000, torch.float32) == best


def test_override_reaches_only_its_op_and_ends() -> None:
    def now() -> LaunchConfig:
        return launch_config("ce_forward", 126464, torch.bfloat16, 90)

    before, other = now(), launch_config("ce_backward", 126464, torch.bfloat16, 90)
    with launch.override("ce_forward", LaunchConfig(1024, 4, 2)):
        assert now() == LaunchConfig(1024, 4, 2)
        with launch.override("ce_forward", LaunchConfig(2048, 4)):
            assert now() == LaunchConfig(2048, 4)
        assert now() == LaunchConfig(1024, 4, 2)
        assert launch_config("ce_backward", 126464, torch.bfloat16, 90) == other
    assert now() == before


@pytest.mark.parametrize(
    ("op", "config", "named"),
    [
        ("softmax", LaunchConfig(1024, 4), "op: got 'softmax'"),
        ("ce_forward", LaunchConfig(1000, 4), "powers of two"),
        ("ce_forward", LaunchConfig(1024, 0), "powers of two"),
        ("tile_softmax", LaunchConfig(1024, 4), "one block"),
    ],
)
def test_override_refuses_what_would_not_work(op: str, config: LaunchConfig, named: str) -> None:
    with pytest.raises(ValueError, match=named), launch.override(op, config):
        pass


def test_autotune_asks_for_a_job_it_does_not_know(interpreter: None) -> None:
    with pytest.raises(ValueError, match="a `run` that launches it"):
        autotune("tile_softmax", 3000, torch.float32)
    with launch.plain_path(), pytest.raises(ValueError, match="no Triton kernel here"):
        autotune("ce_forward", 3000, torch.float32)


def test_path_switch(interpreter: None) -> None:
    x = torch.zeros(1)
    assert launch.uses_triton(x)
    assert not launch.uses_triton(x.double())
    with launch.plain_path():
        assert not launch.uses_triton(x)
        assert launch.kernel_status() == (False, "DMPO_PLAIN=1 or plain_path() forces plain PyTorch")
        with launch.plain_path(False):
            assert launch.uses_triton(x)
    assert launch.uses_triton(x)


def test_imports_and_computes_without_triton() -> None:
    code = """
import sys
sys.modules["triton"] = None
import torch, dmpo.kernels as k
h, w = torch.randn(4, 8, requires_grad=True), torch.randn(30, 8)
k.linear_token_logprobs(h, w, torch.arange(4)).sum().backward()
x = torch.randn(1, 4, 30, requires_grad=True)
targets, mask = torch.zeros(1, 4, dtype=torch.int64), torch.ones(1, 4, dtype=torch.bool)
k.weighted_masked_ce(x, targets, mask, torch.ones(1))[0].backward()
k.sample_tokens(x.detach()[0], 1.0, seed=0)
assert k.launch.kernel_status("cuda") == (False, "triton is not installed")
assert h.grad.isfinite().all() and x.grad.isfinite().all()
"""
    root = Path(launch.__file__).resolve().parents[2]
    env = {k: v for k, v in os.environ.items() if k not in ("DMPO_PLAIN", "TRITON_INTERPRET")} | {
        "PYTHONPATH": str(root)
    }
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
