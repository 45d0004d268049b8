"""If these fail, a shipped config of `accelerate launch` is not what accelerate reads, or does not start ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from dmpo.cli import main
from dmpo.config.files import launch_config_path, launch_configs
from dmpo.distributed.ranks import check_launch
from tests.small_runs import lines

KINDS = {
    "ddp": DistributedType.MULTI_GPU,
    "fsdp2": DistributedType.FSDP,
    "deepspeed_zero2": DistributedType.DEEPSPEED,
    "deepspeed_zero3": DistributedType.DEEPSPEED,
}


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_the_shipped_configs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parser refuses unknown keys; what a rank would be told by it is what the file says."""
    assert launch_configs() == sorted(KINDS)
    path = str(launch_config_path(name))
    assert load_config_from_file(path).distributed_type == KINDS[name]
    words = ["--config_file", path, "--num_processes", "2", "-m", "dmpo", "train", "sudoku-tiny"]
    monkeypatch.setattr("accelerate.commands.launch.torch.cuda.device_count", lambda: 2)
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    if "deepspeed" in name:
        arguments.deepspeed_fields_from_accelerate_config = ""  # what launch_command adds
        _, told = prepare_deepspeed_cmd_env(arguments)
    else:
        told = prepare_multi_gpu_env(arguments)
    for key, value in told.items():
        monkeypatch.setenv(key, value)
    assert told["ACCELERATE_MIXED_PRECISION"] == ("bf16" if "deepspeed" in name else "no")
    if name == "fsdp2":
        plugin = FullyShardedDataParallelPlugin()
        assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, True)
        assert not plugin.cpu_ram_efficient_loading
        assert not plugin.activation_checkpointing
    if "deepspeed" in name:
        told_stage = DeepSpeedPlugin().deepspeed_config["zero_optimization"]["stage"]
        assert told_stage == int(name[-1])


def test_the_command_says_where_they_lie(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config-file", "fsdp2"]) == 0
    assert Path(capsys.readouterr().out.strip()).is_file()
    assert main(["config-file", "fsdp"]) == 2
    assert "choose one of ddp, deepspeed_zero2" in capsys.readouterr().err


def test_accelerate_launch_trains_on_two_ranks(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(launch_config_path("ddp"))]
    words += ["--num_processes", "2", "--main_process_port", "0", "-m", "dmpo", "train", "sudoku-tiny"]
    words += ["max_steps=1", "num_prompts=3", "num_generations=3", "eval_prompts=2", f"output_dir={tmp_path / 'run'}"]
    # Not by --cpu, with which accelerate starts one process only, whatever the config says.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("Held-out accuracy") == 1
    assert len(lines(tmp_path / "run")) == 1
    assert (tmp_path / "run" / "checkpoints" / "step-1" / "rank-1.safetensors").is_file(), "the second rank was there"


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_a_launch_that_became_another_is_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate runs plain DDP on CPUs, whatever config it is launched with."""
    monkeypatch.setenv(variable, "true")
    accelerator: Any = SimpleNamespace(
        num_processes=2, distributed_type=DistributedType.MULTI_CPU, device=torch.device("cpu")
    )
    with pytest.raises(ValueError, match=r"but accelerate runs MULTI_CPU on cpu, .* of `dmpo config-file ddp`"):
        check_launch(accelerator)
    monkeypatch.setenv(variable, "false")
    check_launch(accelerator)
